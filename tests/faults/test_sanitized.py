"""A short run of the operator under the sanitizers, and that they see what they look for."""

import pytest

from tests.faults.sanitized import build, run
from tests.support import ROOT

PLANTED = {
    "no bounds": ("if (!is_plausible(s))", "if (0)"),
    "a row too many": ("for (int y = 0; y < CROP; y++) finish", "for (int y = 0; y <= CROP; y++) finish"),
    "a byte behind the sample": ("jpeg_mem_src(jpeg,", "w->stored[s->size] = 0, jpeg_mem_src(jpeg,"),
}


def program(folder, change=("", "")):
    source = folder / "fused.c"
    whole = (ROOT / "pipeline" / "decode" / "fused.c").read_text()
    source.write_text(whole.replace(*change))
    assert change == ("", "") or source.read_text() != whole
    built = build(folder, source)
    if built is None:
        pytest.skip("the compiler has no AddressSanitizer, or there is none")
    return built


def test_no_bytes_and_no_row_take_the_operator_too_far(tmp_path):
    done, found = run(program(tmp_path), 600, seed=2026, keep=tmp_path)
    assert (done, found) == (600, "")


@pytest.mark.parametrize("change", PLANTED.values(), ids=PLANTED)
def test_a_planted_error_is_found(tmp_path, change):
    assert run(program(tmp_path, change), 600, seed=2026)[1]
