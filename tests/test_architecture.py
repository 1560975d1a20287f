"""Who may load what: checked in fresh interpreters, where an import cannot hide behind an earlier one."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT


def modules(package):
    files = sorted((ROOT / package).rglob("*.py"))
    return [".".join(f.relative_to(ROOT).with_suffix("").parts) for f in files if f.stem != "__init__"]


def loaded_by(names):
    """Top-level packages that importing ``names`` loads."""
    code = f"import sys, importlib\nfor n in {names!r}: importlib.import_module(n)\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_sharding_loads_neither_torch_nor_dali():
    assert not loaded_by(modules("sharding")) & {"torch", "nvidia.dali", "pipeline", "trainer"}


def test_trainer_does_not_load_dali_or_the_loader():
    assert not loaded_by(modules("trainer")) & {"nvidia.dali", "pipeline.loader", "pipeline.graph"}


def test_only_the_graph_loads_dali():
    others = [m for m in modules("pipeline") if m not in ("pipeline.graph", "pipeline.loader", "pipeline.preview")]
    assert "nvidia.dali" not in loaded_by(others)


def test_torchs_compiler_is_loaded_by_those_who_compile_only():
    """It takes longer to load than a rank's other modules together."""
    code = (
        "import sys, torch, trainer.loop, trainer.evaluate\n"
        "from pipeline.batch import Batch\n"
        "from trainer import columns, geometry, launch, learner, recipe, schedule\n"
        "rank = launch.Rank(columns=columns.Columns(), device=torch.device('cpu'))\n"
        "paper = recipe.Recipe(width=0.125)\n"
        "start = geometry.initial_parameters(2, paper, 1)\n"
        "images, labels = torch.ones(2, 3, 224, 224), torch.zeros(2, dtype=torch.int64)\n"
        "batch = Batch(images_NCHW=images, labels_N=labels, ids_N=labels)\n"
        "learner.Learner(rank, paper, start, seed=1).step(batch, 1, schedule.phase_after([], paper))\n"
        "assert torch.are_deterministic_algorithms_enabled()\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"sympy", "torch._dynamo"}


def test_the_command_line_starts_without_torch_or_dali():
    assert not loaded_by(["cli"]) & {"torch", "nvidia.dali", "pyarrow", "matplotlib", "jinja2"}


@pytest.mark.parametrize("package", ["sharding", "pipeline", "trainer", "report"])
def test_packages_are_those_of_this_project(package):
    module = __import__(package)
    assert (ROOT / package / "__init__.py").samefile(module.__file__)


@pytest.mark.parametrize("package", ["sharding", "pipeline", "trainer", "report"])
def test_no_function_outgrows_a_screen(package):
    import ast

    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno <= 60, f"{path.name}: {node.name}"
