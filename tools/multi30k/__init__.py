"""The field's small benchmark, Multi30k task 1, English-German: learned by `reluctant train`,
chosen on the validation text alone, the test scored once.

    python -m tools.multi30k FOLDER

FOLDER holds train, val and test_2016_flickr as NAME.en.gz and NAME.de.gz. None of it is in the
repository.
"""
