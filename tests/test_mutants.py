"""The list of planted errors fits the code as it is: what moved must be planted anew (``make mutants`` runs it)."""

import importlib.util
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "mutants"


@pytest.fixture(scope="module")
def planted_module():
    """``tests/mutants/planted.py``, which is a script's neighbor and no package."""
    spec = importlib.util.spec_from_file_location("planted", FOLDER / "planted.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["planted"] = module  # where its dataclass looks for its annotations
    spec.loader.exec_module(module)
    yield module
    del sys.modules["planted"]


def _folder(path, *entries):
    """A project with one file, one test and a list of these entries."""
    (path / "tests").mkdir(parents=True)
    (path / "tests" / "test_code.py").write_text("def test_one():\n    pass\n")
    (path / "code.py").write_text("a = 1\nb = 1\nif a == b:\n    c = 2\n")
    (path / "tests.toml").write_text('"code.py" = ["tests/test_code.py"]\n')
    (path / "list.toml").write_text("\n".join(f"[[mutant]]\n{entry}" for entry in entries))
    return path


def test_every_entry_fits_the_code_and_names_tests_that_exist(planted_module):
    assert planted_module.stale(planted_module.load()) == []


def test_there_are_enough_that_a_test_must_notice_and_a_reason_for_each_other(planted_module):
    planted = planted_module.load()
    assert sum(not one.equivalent for one in planted) >= 400
    assert all(len(one.equivalent) > 20 for one in planted if one.equivalent)
    assert len({(one.file, one.old, one.new) for one in planted}) == len(planted)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("id = 'x'\nfile = 'code.py'\nold = 'a == b'\nnew = 'a != b'", []),
        ("id = 'x'\nfile = 'code.py'\nold = 'a <= b'\nnew = 'a != b'", ["comes 0 times"]),
        ("id = 'x'\nfile = 'code.py'\nold = '= 1'\nnew = '= 2'", ["comes 2 times"]),
        ("id = 'x'\nfile = 'code.py'\nold = 'c = 2'\nnew = 'c ='", ["is no Python"]),
        ("id = 'x'\nfile = 'code.py'\nold = 'c = 2'\nnew = 'c = 2'", ["are the same"]),
        (
            "id = 'x'\nfile = 'gone.py'\nold = 'c'\nnew = 'd'\ntests = ['tests/test_code.py']",
            ["gone.py does not exist"],
        ),
        (
            "id = 'x'\nfile = 'code.py'\nold = 'c'\nnew = 'd'\ntests = ['tests/test_no.py']",
            ["test_no.py does not exist"],
        ),
        (
            "id = 'x'\nfile = 'code.py'\nold = 'c'\nnew = 'd'\ntests = ['tests/test_code.py::test_two']",
            ["test_two does not exist"],
        ),
    ],
)
def test_an_entry_that_no_longer_fits_is_named(tmp_path, planted_module, entry, said):
    folder = _folder(tmp_path, entry)
    found = planted_module.stale(planted_module.load(folder), folder)
    assert len(found) == len(said)
    assert all(line.startswith("x: ") and words in line for line, words in zip(found, said, strict=True))


def test_an_id_that_comes_twice_is_named(tmp_path, planted_module):
    entry = "id = 'x'\nfile = 'code.py'\nold = 'a == b'\nnew = 'a {} b'"
    folder = _folder(tmp_path, entry.format("!="), entry.format("<"))
    assert planted_module.stale(planted_module.load(folder), folder) == ["x: the id comes more than once"]


def test_an_entry_with_an_unknown_field_is_refused(tmp_path, planted_module):
    folder = _folder(tmp_path, "id = 'x'\nfile = 'code.py'\nold = 'c'\nnew = 'd'\ntest = []")
    with pytest.raises(ValueError, match=r"list\.toml: x: fields \['test'\]"):
        planted_module.load(folder)
