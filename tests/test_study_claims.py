"""Claims 1, 3 and 5 of the study: what they measure, and what their verdicts make of figures."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reluctant.lab.study import applied, nonlinearity, store
from reluctant.lab.study import residual as moving
from reluctant.lab.study.catalogue import variant
from reluctant.lab.study.learn import loss
from reluctant.lab.study.linear_map import best_linear
from reluctant.lab.study.pieces import Piece
from reluctant.lab.study.plan import FULL, QUICK
from reluctant.lab.study.report import applied as sharing
from reluctant.lab.study.report import losses, residual
from reluctant.lab.study.report import nonlinearity as linearity
from reluctant.lab.study.report.figures import Results
from reluctant.lab.study.report.say import MISSING, NAMES
from reluctant.lab.study.seen import seen
from reluctant.lab.study.text import Side, Text, read
from reluctant.lab.study.variants import layers_of
from reluctant.transformer import Transformer
from reluctant.translation.vocabulary import PAD

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = replace(QUICK, d_model=8, d_ff=32, steps=3, points=3, batch_tokens=120, tokens=200)
Losses = Sequence[float | None]

LOW, HIGH, HIGHER = [3.8, 3.9, 4.0], [4.0, 4.1, 4.2], [4.2, 4.3, 4.4]
ABOUT_LOW = [3.9, 3.8, 4.02]  # above it and below it: within the spread
ABOUT_HIGH = [4.1, 4.0, 4.22]
LOST: Losses = [None, None, None]
SOME_LOST: Losses = [None, 3.0, 3.0]


@pytest.fixture(scope="module")
def text() -> Text:
    return read([], TINY)


def built(name: str, text: Text) -> Transformer:
    """With weights as after training: biases are not zero, no two norms alike."""
    model = variant(name, TINY, len(text.vocabulary), 1).build(len(text.vocabulary))
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter)
    return model


def results(folder: Path, models: dict[str, Losses], **measures: Sequence[Any]) -> Results:
    """Made by hand: losses by model and seed, None where training diverged; and measurements."""
    made = store.Made("reluctant study", "a machine", 1, {}, "text", FULL.to_json())
    found = {
        Piece("model", name, seed): {
            "loss": value, "parameters": 7, "diverged": 9 if value is None else None,
        }
        for name, values in models.items()
        for seed, value in enumerate(values, 1)
    }  # fmt: skip
    found |= {
        Piece("measure", name, seed): value
        for name, values in measures.items()
        for seed, value in enumerate(values, 1)
    }
    for piece, result in found.items():
        store.write(folder, store.Result(piece, made, 0.0, 0.0, result))
    return Results(folder)


@pytest.mark.parametrize(
    ("models", "begins", "says", "never"),
    [
        ({"base": LOW, "identity": HIGH, "none": HIGHER}, "Agrees. ", "can be expressive", "optim"),
        ({"base": LOW, "identity": HIGH, "none": ABOUT_HIGH}, "Agrees. ", "can be expr", "optim"),
        ({"base": LOW, "identity": HIGH}, "Agrees. ", "do worse.", "expressive"),
        ({"base": LOW, "identity": HIGHER, "none": HIGH}, "Agrees in part. ", "optim", "can be ex"),
        ({"base": LOW, "identity": HIGHER, "none": HIGH}, "Agrees in", "and better than none", "#"),
        ({"base": LOW, "identity": HIGH, "none": ABOUT_LOW}, "Undecided. ", "optim", "better than"),
        # above in every seed, if not by more than the spread
        ({"base": LOW, "identity": [4.01, 4.3, 4.4], "none": HIGH}, "Agrees in part.", "opt", "#"),
        ({"base": HIGH, "identity": LOW, "none": HIGHER}, "Contradicts. ", "do better", "#"),
        ({"base": LOW, "identity": ABOUT_LOW, "none": HIGH}, "Undecided: ", "within", "expressive"),
        ({"base": LOW, "identity": LOST, "none": HIGH}, "Agrees. ", "in 3 of 3 runs with the iden",
         "expressive"),
        ({"base": LOW, "identity": SOME_LOST, "none": HIGH}, "Agrees in part. ", "in 1 of 3 runs",
         "expressive"),
        ({"base": LOST, "identity": LOW, "none": LOW}, "Contradicts. ", "in 0 of 3 runs", "do bet"),
        ({"base": LOST, "identity": LOST, "none": LOW}, "Undecided. ", "in 3 of 3 with ReLU", "#"),
        ({"base": LOW, "none": LOW}, "No conclusion.", "", "Agrees"),
        ({"identity": LOST}, "No conclusion.", "", "Agrees"),
        ({"base": LOW[:1], "identity": HIGH[:1]}, "No conclusion.", "", "Agrees"),
    ],
)  # fmt: skip
def test_the_verdict_on_non_linearity(
    models: dict[str, Losses], begins: str, says: str, never: str, tmp_path: Path
) -> None:
    verdict = linearity.write(results(tmp_path, models)).verdict
    assert verdict["en"].startswith(begins)
    assert says in verdict["en"]
    assert never not in verdict["en"]
    assert verdict["zh"]


def test_each_model_is_at_the_better_of_its_rates(tmp_path: Path) -> None:
    """With "identity" as it is the verdict would be another one."""
    models: dict[str, Losses] = {
        "base": LOW, "base-half": HIGH, "identity": HIGHER, "identity-half": HIGH,
        "none": LOST, "none-half": HIGHER, "none-deep": LOST, "none-deep-half": SOME_LOST,
    }  # fmt: skip
    found = results(tmp_path, models)
    best = [losses.better(found, name) for name in nonlinearity.TRAINED]
    assert best == ["base", "identity-half", "none-half", "none-deep-half"]
    claim = linearity.write(found)
    assert claim.verdict["en"].startswith("Agrees. With the same parameters")
    said = " ".join(each["en"] for each in claim.found if each)
    assert "0.005 and 0.0025" in said
    assert "better for the identity in place of ReLU; no feed-forward layers; no feed" in said
    rows = {row[0]["en"]: row[2:] for row in claim.tables[0]["rows"]}
    assert rows["the identity in place of ReLU"][0]["values"] == HIGH
    assert rows["the identity in place of ReLU"][1]["values"] == pytest.approx([0.2] * 3)
    assert rows["the identity in place of ReLU"][2]["values"] == HIGHER
    assert rows["no feed-forward layers"][2]["en"] == "diverged in 3 of 3"
    deep = rows["no feed-forward layers, more of attention"]
    assert [deep[0]["en"], deep[1]] == ["diverged in 1 of 3", MISSING]
    assert all(len(row) == len(claim.tables[0]["columns"]) for row in claim.tables[0]["rows"])


def test_a_model_worse_than_one_that_it_can_be(tmp_path: Path) -> None:
    """The referee's figures of identity and none; none-deep is worse, base is not."""
    models: dict[str, Losses] = {
        "base": [3.810, 3.880, 3.895], "identity": [4.022, 4.047, 4.125],
        "none": [3.946, 4.010, 3.990], "none-deep": [4.042, 4.145, 4.136],
    }  # fmt: skip
    claim = linearity.write(results(tmp_path, models))
    said = " ".join(each["en"] for each in claim.found if each)
    name = "with the identity in place of ReLU is above that with no feed-forward layers, by 0.083"
    assert name in said
    assert "With no feed-forward layers the loss is higher than with ReLU (the base model)" in said
    assert "better for no model" in said
    assert said.count("training does not find it") == 2
    assert claim.verdict["en"].startswith("Agrees in part. ")
    assert "(Zhao et al.) is not told here" in claim.verdict["en"]


def test_the_identity_is_compared_with_none_and_relu_where_it_is_worse(tmp_path: Path) -> None:
    models: dict[str, Losses] = {"base": HIGHER, "identity": LOW, "none": HIGH}
    claim = linearity.write(results(tmp_path, models))
    said = " ".join(each["en"] for each in claim.found if each)
    assert "With the identity in place of ReLU the loss is lower than with no feed-forward" in said
    assert "the loss with ReLU (the base model) is above that with no feed-forward layers" in said


def stack(alone: float, attending: float, feeding: float, early: float) -> Any:
    """Distances in an untrained stack at the end, and after two layers and three without residual,
    where they are 0.01 with attention alone.
    """

    def case(end: float, early: float = 0.01) -> dict[str, list[float]]:
        return {"distance": [1.0, 0.5, early, early, end], "sentence_rank": [5.0] * 5}

    untrained = {
        "whole": case(0.5), "without feed-forward": case(attending),
        "without residual": case(feeding, early), "attention alone": case(alone),
    }  # fmt: skip
    return {"trained": untrained, "untrained": untrained}


SAME, OTHER, OPEN = "the same here", "the other way round here", "undecided here"


@pytest.mark.parametrize(
    ("by_seed", "words"),
    [
        # alone, attention with residual, feed-forward without; how fast
        ([(1e-7, 0.4, 1e-7, e) for e in (0.01, 0.012, 0.008)], [SAME, SAME, OTHER, OPEN]),
        ([(0.3, 1e-7, 0.3, e) for e in (0.1, 0.12, 0.09)], [OTHER, OTHER, SAME, SAME]),
        ([(1e-7, 0.4, 1e-7, e) for e in (1e-4, 1.2e-4, 9e-5)], [SAME, SAME, OTHER, OTHER]),
        ([(e, e, e, 0.01) for e in (0.05, 0.2, 0.3)], [OPEN, OPEN, OPEN, OPEN]),
        ([(1e-7, 0.4, 1e-7, 0.01)], None),
        ([], None),
    ],
)
def test_collapse_beside_the_literature(
    by_seed: list[tuple[float, ...]], words: list[str] | None, tmp_path: Path
) -> None:
    found = results(tmp_path, {"base": LOW}, rank=[stack(*each) for each in by_seed])
    verdict = linearity.write(found).verdict["en"]
    if words is None:
        assert "Dong" not in verdict
        return
    names = (
        "attention alone makes all positions alike (Dong et al.)",
        "with the residual it does not (Dong et al.)",
        "nor with the feed-forward layer and no residual (Dong et al., abstract)",
        "the feed-forward layer slows it (Dong et al., analysis)",
    )
    for name, word in zip(names, words, strict=True):
        assert f"{name}: {word}" in verdict


@pytest.mark.parametrize(
    ("deep", "says"),
    [(HIGH, SAME), (ABOUT_LOW, OPEN), ([3.5, 3.6, 3.7], OTHER), (HIGHER, "is not told here"),
     (LOST, None), (None, None)],
)  # fmt: skip
def test_attention_in_the_layers_place(
    deep: Losses | None, says: str | None, tmp_path: Path
) -> None:
    models: dict[str, Losses] = {"base": LOW, "none": ABOUT_HIGH}
    verdict = linearity.write(results(tmp_path, models | ({"none-deep": deep} if deep else {})))
    assert ("Zhao" in verdict.verdict["en"]) == (says is not None)
    assert (says or "") in verdict.verdict["en"]


def test_what_linear_maps_keep(tmp_path: Path) -> None:
    """In the referee's figures of one seed: 79 %."""
    one = {"r2": {"encoder.layers.0": 0.9}, "loss": 3.81, "replaced": 4.232, "refitted": 4.224,
           "mean": 5.82, "dropped": 6.85}  # fmt: skip
    measured: dict[str, Any] = {"collapse": {"from one matrix": 1e-7, "from float64": 1e-7}}
    measured |= {"imitated": dict.fromkeys(nonlinearity.IMITATED, one)}
    claim = linearity.write(results(tmp_path, {"base": LOW}, linear=[measured] * 3))
    said = " ".join(each["en"] for each in claim.found if each)
    assert "keep 79.0 (0.0) %" in said
    assert "linear maps 0.422 (0.000); linear maps fitted one after the other 0.414" in said
    assert "their mean outputs 2.010 (0.000); nothing 3.040 (0.000)." in said
    assert claim.tables[2]["rows"][0][-1]["mean"] == pytest.approx(100 * (1 - 0.422 / 2.01), 1e-4)


@pytest.mark.parametrize(
    ("without", "begins", "says"),
    [
        (HIGH, "Agrees. ", "lowers the loss"),
        ([3.5, 3.6, 3.7], "Contradicts. ", "do better"),
        (ABOUT_LOW, "Undecided: ", "within"),
        (LOST, "Agrees. ", "diverged in 3 of 3 runs with no residual around feed-forward layers"),
        (SOME_LOST, "Agrees in part. ", "and in 0 of 3 with ReLU"),
        (None, "No conclusion.", ""),
    ],
)
def test_the_verdict_on_the_residual(
    without: Losses | None, begins: str, says: str, tmp_path: Path
) -> None:
    models: dict[str, Losses] = {"base": LOW} | ({"no-residual": without} if without else {})
    claim = residual.write(results(tmp_path, models))
    assert claim.verdict["en"].startswith(begins)
    assert says in claim.verdict["en"]
    row = claim.tables[0]["rows"][-1]
    if without and None in without:
        assert row[2]["en"] == f"diverged in {without.count(None)} of 3"


def moved(ends: float, between: float, unigram: float = 6.3) -> Any:
    """Changes of the loss with a layer left out."""
    places = [(0, ends), (1, between), (2, ends)]
    left_out = [
        {"what": what, "stack": stack, "index": index, "change": change}
        for what in ("layer", "feed-forward")
        for stack in ("encoder", "decoder")
        for index, change in places
    ]
    return {"loss": 3.9, "left_out": left_out, "swapped": left_out, "unigram": unigram}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ([(1.0, 0.5), (1.1, 0.5), (1.2, 0.6)], SAME),
        ([(0.5, 1.0), (0.5, 1.1), (0.6, 1.2)], OTHER),
        ([(1.0, 1.1), (1.1, 1.0), (1.2, 1.1)], OPEN),
        ([(1.0, 0.5)], None),
    ],
)
def test_the_middle_beside_the_literature(
    changes: list[tuple[float, float]], word: str | None, tmp_path: Path
) -> None:
    found = results(tmp_path, {"base": LOW}, moved=[moved(*each) for each in changes])
    verdict = residual.write(found).verdict["en"]
    assert ("Sun et al." in verdict) == (word is not None)
    assert (word or "") in verdict


def test_the_frequencies_stand_beside_the_losses(tmp_path: Path) -> None:
    models: dict[str, Losses] = {"base": LOW, "no-residuals": [6.0, 6.01, 6.02]}
    claim = residual.write(results(tmp_path, models, moved=[moved(1, 0.5)] * 3))
    said = " ".join(each["en"] for each in claim.found if each)
    assert (
        "With no residual at all the loss is lower than with the frequencies of tokens alone"
        in said
    )
    assert "(counted from 0)" in said
    row = claim.tables[0]["rows"][-1]
    assert (row[1], row[2]["mean"], row[3]["mean"]) == (MISSING, 6.3, pytest.approx(2.4))


@pytest.mark.parametrize("name", ["shared", "shared-encoder"])
@pytest.mark.parametrize(
    ("shared", "word", "pires"),
    [
        (HIGH, "Agrees. At equal parameters, layers of their own", OTHER),
        ([3.5, 3.6, 3.7], "Contradicts. At equal parameters, sharing", SAME),
        (ABOUT_LOW, "Undecided: ", OPEN),
        (LOST, "Agrees. Training diverged in 3 of 3", None),
        (None, "No conclusion.", None),
    ],
)
def test_the_verdict_on_sharing_is_one_for_each_way(
    name: str, shared: Losses | None, word: str, pires: str | None, tmp_path: Path
) -> None:
    models: dict[str, Losses] = {"base": LOW} | ({name: shared} if shared else {})
    verdict = sharing.write(results(tmp_path, models)).verdict["en"]
    ways = verdict.split("Beside the literature")[0].split("Against ")
    found = next(each for each in ways if each.startswith(NAMES[name]["en"] + ":"))
    assert word in found
    other = next(each for each in ways if each.startswith("one wide") and each != found)
    assert "No conclusion." in other
    assert ("Pires" in verdict) == (pires is not None and name == "shared-encoder")
    assert "Pires" not in verdict or (pires or "") in verdict


@pytest.mark.parametrize(
    ("bits", "begins"), [(True, "Agrees. Position"), (False, "Contradicts. Some")]
)
def test_the_verdict_on_positions_goes_by_bits(bits: bool, begins: str, tmp_path: Path) -> None:
    layer = {"bits_permuted": True, "bits_alone": True, "plain_permuted": 0.0, "plain_alone": 1e-7}
    layers = {"encoder.layers.0": layer, "encoder.layers.1": {**layer, "bits_alone": bits}}
    attention = {"tokens": 15, "alone": {"encoder.layers.0": 1.5, "encoder.layers.1": 0.75}}
    measured = [{"layers": layers, "attention": attention}] * 3
    claim = sharing.write(results(tmp_path, {"base": LOW}, positions=measured))
    assert claim.verdict["en"].startswith(begins)
    said = " ".join(each["en"] for each in claim.found if each)
    assert "on a sentence of 15 tokens" in said
    assert "differs by 0.75 of the largest" in said
    both = {"base": LOW, "shared": HIGH, "shared-encoder": ABOUT_LOW}
    claim = sharing.write(results(tmp_path, both, positions=measured))
    assert claim.verdict["en"].startswith("Agrees in part. " if bits else "Undecided. ")


def test_frequencies_are_counted_on_the_training_side(text: Text) -> None:
    """Against batches of both sides, token by token."""
    count = np.ones(len(text.vocabulary))
    for batch in text.train.sample(10**9):
        count += np.bincount(batch.labels[batch.labels != PAD].numpy(), minlength=len(count))
    held_out = [int(i) for batch in text.validation() for i in batch.labels[batch.labels != PAD]]
    wanted = np.mean([-np.log(count[i] / count.sum()) for i in held_out])
    assert moving.unigram(text) == pytest.approx(float(wanted), rel=1e-9)


def test_linear_maps_in_the_layers_places(text: Text) -> None:
    """For layers that are linear they do the same; fitted in turn, what comes to each counts."""
    model, batches = built("identity", text), text.valid.sample(400)
    maps = {
        name: nonlinearity.collapsed(layer.feed_forward) for name, layer in layers_of(model).items()
    }
    before = loss(model, batches)
    assert loss(nonlinearity.replaced(model, maps), batches) == pytest.approx(before, rel=1e-5)
    assert loss(nonlinearity.refitted(model, batches), batches) == pytest.approx(before, rel=1e-5)
    assert loss(model, batches) == before

    model = built("base", text)
    fitted = layers_of(nonlinearity.refitted(model, batches))
    real = seen(model, batches)["encoder.layers.0"]
    first = fitted["encoder.layers.0"].feed_forward.by
    assert torch.equal(first.weight, best_linear(real.x, real.y).weight)
    # the second: on what comes from the first one's map, by hand
    with torch.no_grad():
        model.encoder.layers[0].feed_forward = fitted["encoder.layers.0"].feed_forward
    xs = []
    second: Any = model.encoder.layers[1]
    hook = second.feed_forward.register_forward_pre_hook(lambda _, given: xs.append(given[0]))
    rows = []
    for batch in batches:
        with torch.no_grad():
            model.encode(batch.source)
        rows.append(xs[-1][batch.source != PAD])
    hook.remove()
    x = torch.cat(rows)
    with torch.no_grad():
        wanted = best_linear(x, second.feed_forward(x))
    found = fitted["encoder.layers.1"].feed_forward.by
    assert torch.allclose(found.weight, wanted.weight, atol=1e-6)


@torch.no_grad()
def test_rank_and_distance_are_means_over_sentences(text: Text) -> None:
    """Against numpy, one sentence after the other, without padding."""
    model, batches = built("base", text), text.valid.sample(120)
    ranks, distances = [], []
    for row in (row for batch in batches for row in batch.source):
        source = row[row != PAD][None]
        x = model.dropout(model.input_positions(model.input_embedding(source) * model.scale))
        for layer in model.encoder.layers:
            x = layer(x)
        matrix = x[0].double().numpy()
        shares = np.linalg.svd(matrix, compute_uv=False)
        shares = shares / shares.sum()
        ranks.append(np.exp(-(shares * np.log(shares)).sum()))
        rest = matrix - matrix.mean(0)
        distances.append(np.linalg.norm(rest) / np.linalg.norm(matrix))
    found = nonlinearity.by_depth(model, batches)
    assert found["sentence_rank"][-1] == pytest.approx(float(np.mean(ranks)), rel=1e-4)
    assert found["distance"][-1] == pytest.approx(float(np.mean(distances)), rel=1e-4)


def test_the_sentence_for_attention_is_of_as_nearly_sixteen_tokens_as_there_is() -> None:
    side = Side([[5] * 3, [6] * 13, [7] * 14, [8] * 17, [9] * 40], [[]] * 5)
    assert applied.sentence(side).tolist() == [[7] * 14 + [2]]


@torch.no_grad()
def test_attention_gets_its_own_input_and_alone_it_is_its_value(text: Text) -> None:
    """Of one position softmax is 1: the output is W^O W^V of it, with their biases."""
    model, source = built("base", text), applied.sentence(text.valid)
    x = model.dropout(model.input_positions(model.input_embedding(source) * model.scale))
    found = applied.attention_alone(model, source)
    for name, attention, given in applied.attention_inputs(model, source):
        layer = layers_of(model)[name]
        own = layer.add_norm_1.norm(x)
        assert torch.allclose(given, own, atol=1e-6)
        together = attention(own, own)[0]
        alone = layer.multi_head_attention.output(layer.multi_head_attention.value(own))[0]
        wanted = float((alone - together).abs().max() / together.abs().max())
        assert found[name] == pytest.approx(wanted, rel=1e-4)
        x = layer(x)
    assert list(found) == [f"encoder.layers.{i}" for i in range(TINY.layers)]
