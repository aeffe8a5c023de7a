"""The examples and the notebooks run, at a small size."""

import ast
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

import perceivers
from examples import export, fine_tune
from tests.models import tiny_image_model

ROOT = Path(__file__).parent.parent


@pytest.mark.integration
def test_a_modality_of_ones_own_learns_and_is_saved(tmp_path, one_thread):
    from examples import own_modality

    assert own_modality.main(str(tmp_path), num_weeks=300, num_epochs=4) > 0.9
    model = own_modality.WeekPerceiverForClassification.from_pretrained(tmp_path)
    assert model.config.num_labels == len(own_modality.BUILDINGS)


def test_a_modality_of_ones_own_needs_public_names_only():
    nodes = ast.walk(ast.parse((ROOT / "examples" / "own_modality.py").read_text()))
    imports = {node.module: [alias.name for alias in node.names] for node in nodes if isinstance(node, ast.ImportFrom)}
    assert set(imports) == {"transformers", "perceivers"}
    assert set(imports["perceivers"]) <= set(perceivers.__all__)


@pytest.mark.integration
def test_fine_tune_takes_a_folder_of_class_folders(tmp_path, one_thread):
    random = np.random.default_rng(0)
    for label in ("a", "b", "c"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for index in range(5):
            pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{index}.png")
    tiny_image_model().save_pretrained(tmp_path / "model")
    perceivers.ImagePerceiverImageProcessorPil(do_resize=False, do_center_crop=False).save_pretrained(
        tmp_path / "model"
    )
    paths = [str(tmp_path / name) for name in ("model", "photos", "tuned")]
    assert 0 <= fine_tune.main([*paths, "--epochs", "1"]) <= 1
    tuned = perceivers.ImagePerceiverForImageClassification.from_pretrained(tmp_path / "tuned")
    assert tuned.config.id2label == {0: "a", 1: "b", 2: "c"}


@pytest.mark.integration
def test_export_writes_a_program_that_answers_as_the_model(tmp_path):
    tiny_image_model(num_self_attends_per_block=1).save_pretrained(tmp_path / "model")
    assert export.main([str(tmp_path / "model"), str(tmp_path / "model.pt2")]) < 1e-5


@pytest.mark.integration
@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    pytest.importorskip("trimesh")
    pytest.importorskip("torchaudio")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(path, as_version=4)
    assert [cell for cell in notebook.cells if cell.get("outputs")] == [], "clear the outputs before committing"
    done = NotebookClient(notebook, timeout=250, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(output.get("text", "") for cell in done.cells for output in cell.get("outputs", []))
    assert "error" not in printed.replace("errors.", "")  # the mistakes that `train` draws and lists
    assert printed.count("held-out") == sum("%run -m perceivers train" in cell.source for cell in notebook.cells)
