"""The page's words in English and Chinese."""

import tomllib
from functools import cache
from importlib.resources import files

LANGUAGES = ("en", "zh")


@cache
def words() -> dict[str, dict[str, str]]:
    """Each word or sentence by its key, in each language.

    >>> words()["nav.neurons"]
    {'en': 'Neurons', 'zh': '神经元'}
    """
    return {
        f"{section}.{name}": {language: said[language].strip() for language in LANGUAGES}
        for path in sorted((files("reluctant.lab.page") / "words").iterdir(), key=str)
        for section, entries in tomllib.loads(path.read_text(encoding="utf-8")).items()
        for name, said in entries.items()
    }
