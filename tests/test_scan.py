"""The scan over transformers' architectures, on one of them; and that it tells what it must."""

import pytest
import torch

from tools import scan
from tools.scan import Finding


@pytest.mark.filterwarnings("ignore")
def test_one_architecture() -> None:
    finding = scan.examine("OPTModel", "OPTConfig")
    assert finding.built
    assert finding.swapped == 2
    assert finding.difference is not None
    assert finding.difference < 1e-5
    assert not finding.bad
    assert not scan.examine("NoSuchModel", "OPTConfig").built
    assert ("OPTModel", "OPTConfig") in scan.architectures()


def test_what_is_bad_is_called_bad() -> None:
    x = [torch.ones(3)]
    assert scan._difference(x, [torch.ones(3)]) == 0
    assert scan._difference(x, [torch.tensor([1.0, 1.0, 1.5])]) == 0.5
    assert scan._difference(x, [torch.tensor([1.0, 1.0, torch.nan])]) == float("inf")
    assert scan._difference(x, []) == float("inf")
    changed = Finding("A|B", built=True, swapped=1, difference=0.5)
    raises = Finding("C", built=True, error="boom")
    fine = Finding("D", built=True, swapped=2, refused=["a: b"], difference=0.0)
    unbuilt = Finding("E", error="no")
    assert [f.bad for f in (changed, raises, fine, unbuilt)] == [True, True, False, False]
    page = scan.page([changed, raises, fine, unbuilt])
    assert "| an output changed beyond rounding | 2 |" in page.replace("`optimize` raised, or ", "")
    assert "| D | 2 | 1 | 0 | 0e+00 |" in page
    assert "- E: no" in page
