"""How the layer is applied, in words and tables."""

import math
from typing import Any

from reluctant.lab.study.report import losses
from reluctant.lab.study.report.claim import NO_VERDICT, Claim
from reluctant.lab.study.report.figures import Figure, Results, mean, sign
from reluctant.lab.study.report.say import (
    NAMES,
    Two,
    beside,
    cell,
    joined,
    table,
    two,
)
from reluctant.lab.study.report.texts import texts

WHATS = ("bits_permuted", "bits_alone", "plain_permuted", "plain_alone")
LEARNED = ("base", "shared", "shared-encoder")
TITLE = two("One layer for several places", "多处共用一层")


def write(results: Results) -> Claim:
    """All of it."""
    return Claim(
        key="applied",
        groups=["applied"],
        figures=joined([_bits(results), losses.listed(results, LEARNED)]),
        found=[_positions(results), _attention(results), *losses.said(results, LEARNED)],
        verdict=_verdict(results),
        tables=[_position_table(results), losses.loss_table(results, TITLE, LEARNED)],
    )


def _all(results: Results, what: str) -> list[float]:
    """Of all layers and seeds."""
    found = [r.result["layers"].values() for r in results.all if r.piece.name == "positions"]
    return [float(each[what]) for layers in found for each in layers if what in each]


def _positions(results: Results) -> Two | None:
    permuted, alone = _all(results, "bits_permuted"), _all(results, "bits_alone")
    if not permuted:
        return None
    worst = max(*_all(results, "plain_permuted"), *_all(results, "plain_alone"))
    same = f"{sum(permuted):.0f}", f"{sum(alone):.0f}", f"{len(permuted)}"
    return two(
        f"With the engine's way pinned, the outputs are the same bits in {same[0]} of {same[2]} "
        f"layers when positions change places, and in {same[1]} when each is alone; in plain torch "
        f"they differ by {worst:.1e} of the largest output at most.",
        f"固定引擎路径时，{same[2]} 层中有 {same[0]} 层在位置互换后输出比特相同，"
        f"有 {same[1]} 层在逐个计算时比特相同；普通 torch 中至多相差最大输出的 {worst:.1e}。",
    )


def _bits(results: Results) -> Two | None:
    bits = _all(results, "bits_permuted") + _all(results, "bits_alone")
    if not bits:
        return None
    return two(
        f"The same bits in {sum(bits):.0f} of {len(bits)} cases.",
        f"{len(bits)} 例中有 {sum(bits):.0f} 例比特相同。",
    )


def _attention(results: Results) -> Two | None:
    found = [r["attention"] for r in results.by_seed("positions").values()]
    if not found:
        return None
    tokens, apart = found[0]["tokens"], min(min(each["alone"].values()) for each in found)
    least = math.floor(100 * apart) / 100  # a bound is not rounded up
    return two(
        f"Attention, for comparison, on a sentence of {tokens} tokens: the output of some position "
        f"alone differs by {least:.2f} of the largest or more in every layer.",
        f"作为对照，在一个 {tokens} 个词元的句子上，注意力层逐个位置计算时，"
        f"每层都有输出至少相差最大输出的 {least:.2f}。",
    )


def _verdict(results: Results) -> Two:
    """Of position by position, and of weights of one's own in each layer, against each of the ways
    to share them: it agrees if all of these do.
    """
    words, base = texts("applied", results.plan), results.loss(LEARNED[0])
    bits = _all(results, "bits_permuted") + _all(results, "bits_alone")
    signs = [sign(results.loss(name), base) for name in LEARNED[1:]]
    known = [each for each in (1 if all(bits) else -1, *signs) if each is not None]
    positions = [losses.lead(mean(known)), words["bits" if all(bits) else "no-bits"]]
    return joined([*(positions if bits else [NO_VERDICT]), *_sharing(results)])


def _sharing(results: Results) -> list[Two | None]:
    """A verdict on each way to share."""
    words = texts("applied", results.plan)
    said: list[Two | None] = []
    for name in LEARNED[1:]:
        named = two(f"Against {NAMES[name]['en']}:", f"与“{NAMES[name]['zh']}”相比：")
        said += [named, losses.judged(results, name, words["agrees"], words["contradicts"])]
    how = sign(results.loss("shared-encoder"), results.loss("base"))
    pires = two(
        "one wide layer in the encoder and none in the decoder does better at equal parameters "
        "(Pires et al., in BLEU, of much larger models)",
        "参数量相等时，编码器共用一个宽层、解码器没有，效果更好"
        "（Pires 等，以 BLEU 计，模型大得多）",
    )
    return [*said, beside([(pires, how, -1)])]


def _position_table(results: Results) -> dict[str, Any]:
    found = results.any("positions")
    rows = []
    for layer in found["layers"] if found else ():
        name = layer.replace(".layers.", " ")
        rows.append([name, *(cell(_at(results, layer, what)) for what in WHATS)])
    columns = [
        two("layer", "层"),
        two("same bits, permuted (1: yes)", "互换后比特相同（1 为是）"),
        two("same bits, alone", "逐个时比特相同"),
        two("plain torch, permuted", "普通 torch，互换"),
        two("plain torch, alone", "普通 torch，逐个"),
    ]
    title = two("Position by position (layers are counted from 0)", "逐位置（层从 0 数起）")
    return table(title, columns, rows)


def _at(results: Results, layer: str, what: str) -> Figure | None:
    return results.figure("positions", lambda r: float(r["layers"][layer][what]))
