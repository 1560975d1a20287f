"""Who may load what: checked in fresh interpreters, where an import cannot hide behind an earlier one."""

import subprocess
import sys
from importlib import import_module

import pytest

from tests.support import ROOT

PACKAGES = ("core", "sharding", "pipeline", "trainer", "report", "commands")


def modules(package):
    files = sorted((ROOT / package).rglob("*.py"))
    return [".".join(("alexstream", *f.relative_to(ROOT).with_suffix("").parts)) for f in files if f.stem != "__init__"]


def loaded_by(*groups):
    """Import these groups of modules one after the other; all modules that are loaded after each."""
    code = (
        "import sys, importlib\n"
        f"for names in {groups!r}:\n"
        "    for name in names: importlib.import_module(name)\n"
        "    print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return [set(line.split()) for line in done.stdout.splitlines()]


USERS_OF_DALI = {f"alexstream.pipeline.{name}" for name in ("decode.dali", "batch_source", "stream", "preview")}


@pytest.fixture(scope="module")
def loaded():
    """By stage: what is loaded after it and those before it, each with as little as it may load."""
    groups = {
        "alexstream": ["alexstream"],
        "command line": ["alexstream.commands.main"],
        "sharding": modules("sharding"),
        "trainer": modules("trainer"),
        "pipeline": [name for name in modules("pipeline") if name not in USERS_OF_DALI],
        "all": [name for package in PACKAGES for name in modules(package)],
    }
    return dict(zip(groups, loaded_by(*groups.values()), strict=True))


def test_sharding_loads_neither_torch_nor_dali(loaded):
    assert not loaded["sharding"] & {"torch", "nvidia.dali", "alexstream.pipeline", "alexstream.trainer"}


def test_trainer_does_not_load_dali_or_the_loader(loaded):
    assert not loaded["trainer"] & {"nvidia.dali", "alexstream.pipeline.stream", "alexstream.pipeline.decode.dali"}


def test_only_the_graph_loads_dali(loaded):
    assert "nvidia.dali" not in loaded["pipeline"] and "nvidia.dali" in loaded["all"]


def test_torchs_compiler_is_loaded_by_those_who_compile_only():
    """It takes longer to load than a rank's other modules together."""
    code = (
        "import sys, torch, alexstream.trainer.loop, alexstream.trainer.evaluation.evaluate\n"
        "from alexstream.pipeline.batch import Batch\n"
        "from alexstream.trainer import recipe, train_step\n"
        "from alexstream.trainer.distributed import launch\n"
        "from alexstream.trainer.network import columns, geometry\n"
        "from alexstream.trainer.optim import schedule\n"
        "rank = launch.Rank(columns=columns.Columns(), device=torch.device('cpu'))\n"
        "paper = recipe.Recipe(width=0.125)\n"
        "start = geometry.make_initial_parameters(2, paper, 1)\n"
        "images, labels = torch.ones(2, 3, 224, 224), torch.zeros(2, dtype=torch.int64)\n"
        "batch = Batch(images_NCHW=images, labels_N=labels, ids_N=labels)\n"
        "train_step.Learner(rank, paper, start, seed=1).step(batch, 1, schedule.choose_phase([], paper))\n"
        "assert torch.are_deterministic_algorithms_enabled()\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"sympy", "torch._dynamo"}


def test_the_command_line_starts_without_torch_or_dali(loaded):
    assert not loaded["command line"] & {"torch", "nvidia.dali", "pyarrow", "matplotlib", "jinja2"}


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_those_of_this_project(package):
    module = import_module(f"alexstream.{package}")
    assert (ROOT / package / "__init__.py").samefile(module.__file__)


def test_nothing_is_imported_under_its_bare_name(loaded):
    """A stage imported twice, once as ``pipeline`` and once as ``alexstream.pipeline``, would be two modules."""
    assert not loaded["all"] & {*PACKAGES, "cli"}


def test_public_names_are_those_that_are_there_and_cost_nothing_until_used(loaded):
    import alexstream

    assert not loaded["alexstream"] & {"numpy", "torch", "nvidia.dali", "click"}
    assert all(getattr(alexstream, name) is not None for name in alexstream.__all__)
    assert {"ShardedData", "EpochLoader", "Batch", "AlexstreamError", "verify", "__version__"} <= set(dir(alexstream))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = alexstream.Nothing


def test_type_checkers_see_the_public_names_where_they_are_loaded_from():
    import ast

    import alexstream

    tree = ast.parse((ROOT / "alexstream" / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and node.test.id == "TYPE_CHECKING"]
    typed = {name.asname: (node.module, name.name) for node in block.body for name in node.names}
    assert typed == {name: (f"alexstream.{home}", name) for name, home in alexstream._HOMES.items()}


@pytest.mark.parametrize("package", ["core", "sharding", "pipeline", "trainer", "report"])
def test_no_function_outgrows_a_screen(package):
    import ast

    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno <= 60, f"{path.name}: {node.name}"


def test_recipe_and_statistics_meet_in_preprocessing_alone():
    """What is computed from both, anywhere else, could depart from what the network was trained on."""
    formulas = ("offset_matrix(", "lighting_divisor(", "MeanPlanes.from_image(", "Augmenter(")
    allowed = {"preprocessing.py", "lighting.py", "mean.py", "augment.py"}
    for package in ("pipeline", "trainer", "report", "commands"):
        for path in (ROOT / package).rglob("*.py"):
            found = [formula for formula in formulas if formula in path.read_text()]
            assert not found or path.name in allowed, f"{path}: {found}"
