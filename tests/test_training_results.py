"""What is said and drawn at the end of a training: beside chance, class by class, example by example."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from matplotlib.axes import Axes
from PIL import Image as PilImage

from perceivers.training.class_findings import (
    class_findings,
    class_mistakes,
    ranking_findings,
    ranking_mistakes,
    short,
)
from perceivers.training.class_metrics import ranking_report
from perceivers.training.classification import CLASSIFICATION, ClassTargets
from perceivers.training.examples import ExampleDataset, LeftOut, Origin
from perceivers.training.images import IMAGES
from perceivers.training.objective import Mistake, Objective, Outcome
from perceivers.training.results import (
    LocatedMistake,
    draw_curves,
    draw_mistakes,
    forget_mistakes,
    is_by_heart,
    locate,
    show_mistakes,
    things_to_try,
    write_mistakes,
)

NAMES = ["cat", "dog", "bird"]


def outcome(predictions, references, confidences=None, rows=None):
    confidences = np.full(len(references), 0.5) if confidences is None else np.array(confidences)
    return Outcome(np.array(predictions)[:, None], np.array(references), confidences, rows)


class TestClassFindings:
    def test_chance_majority_weakest_classes_and_confusions(self):
        references = [0] * 50 + [1] * 30 + [2] * 20
        predictions = [0] * 50 + [1] * 15 + [0] * 15 + [2] * 19 + [1]
        found = class_findings(outcome(predictions, references), NAMES, "images")
        assert found.baselines == pytest.approx({"chance": 1 / 3, "always the most frequent class": 0.5})
        assert found.remarks == [
            "Chance is 33.33 %, one of 3 classes; always answering cat, the most frequent class, gives 50.00 %.",
            "Weakest classes: dog (recall 50.00 %, 15 of 30), bird (recall 95.00 %, 19 of 20).",
            "Most often confused: dog taken for cat (15 times), bird taken for dog (once).",
        ]
        assert found.warning is None  # 84 %, and two standard errors above the majority are 60 %
        assert found.table[1] == {"class": "dog", "recall": "50.00 %", "images": "30"}

    @pytest.mark.parametrize(("right", "is_near"), [(60, True), (61, False)])
    def test_near_chance_is_within_two_standard_errors_of_the_majority(self, right, is_near):
        references = np.array([0] * 50 + [1] * 50)  # (0.5 * 0.5 / 100) ** 0.5 is 0.05
        predictions = np.where(np.arange(100) < right, references, 1 - references)
        found = class_findings(outcome(predictions, references), ["a", "b"], "images")
        assert found.baselines == {"chance": 0.5}
        assert found.remarks[0] == "Chance is 50.00 %: 2 classes, all equally frequent."
        assert (found.warning is not None) == is_near
        if is_near:
            assert "60.00 % cannot be told from always answering a" in found.warning
            assert "on 100 images gives up to 60.00 % by luck" in found.warning

    def test_a_perfect_result_on_few_examples_says_little(self):
        found = class_findings(outcome([0, 1], [0, 1]), ["a", "b"], "images")
        assert "up to 100.00 % by luck" in found.warning
        assert len(found.remarks) == 1

    def test_a_class_without_examples_is_not_weak(self):
        found = class_findings(outcome([0, 1, 1], [0, 0, 1]), NAMES, "images")
        assert found.table[2] == {"class": "bird", "recall": "-", "images": "0"}
        assert "bird" not in "".join(found.remarks)

    def test_many_classes_have_no_table(self):
        names = [str(number) for number in range(21)]
        assert class_findings(outcome([0, 1], [0, 1]), names, "images").table == []

    def test_long_names_are_cut_and_escaped(self):
        assert short("a" * 5000) == "a" * 37 + "..."
        assert short("\x1b[31m") == "\\x1b[31m"

    def test_mistakes_that_the_model_is_sure_of_come_first(self):
        found = class_mistakes(outcome([0, 1, 2, 0], [0, 0, 1, 2], [0.9, 0.6, 0.8, 0.7]), NAMES)
        assert found == [
            Mistake(2, "dog", "bird", 0.8),
            Mistake(3, "bird", "cat", 0.7),
            Mistake(1, "cat", "dog", 0.6),
        ]


class TestRankingFindings:
    @staticmethod
    def found(signal):
        random = np.random.default_rng(0)
        references = np.zeros((200, 3), np.float32)
        references[:80, 0] = references[50:110, 1] = references[190:, 2] = 1
        scores = random.normal(size=references.shape) + signal * references
        return ranking_findings(ranking_report(scores, references, NAMES)["classes"], 200, "recordings")

    def test_a_random_order_is_near_chance(self):
        found = self.found(signal=0)
        assert found.baselines == {"a random order": pytest.approx((80 + 60 + 10) / 600)}
        assert "A random order has a mean average precision of about 25.00 %." in found.remarks
        assert "cannot be told from a random order" in found.warning

    def test_a_ranking_is_not(self):
        found = self.found(signal=3)
        assert found.warning is None
        assert found.remarks[1].startswith("Weakest classes: bird (average precision ")
        assert [row["recordings"] for row in found.table] == ["80", "60", "10"]

    def test_mistakes(self):
        logits = np.array([[2.0, -2.0, -9.0], [3.0, 1.0, -9.0], [-5.0, -1.0, -9.0]])
        references = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0]], np.float32)
        found = ranking_mistakes(Outcome(logits, references, np.zeros(3)), NAMES)
        assert [(m.number, m.target, m.prediction) for m in found] == [(2, "cat", "none"), (1, "cat", "cat, dog")]
        assert found[0].score == pytest.approx(1 - 1 / (1 + np.exp(5.0)))


class TestObjective:
    config = SimpleNamespace(id2label=dict(enumerate(NAMES)))

    def test_classification_with_one_label(self):
        targets = ClassTargets(NAMES)
        logits = torch.tensor([[0.0, 0.0, 0.0], [5.0, 0.0, 0.0]], dtype=torch.bfloat16)
        confidences = CLASSIFICATION.confidences(logits, targets)
        torch.testing.assert_close(confidences, logits.float().softmax(-1).amax(-1))
        seen = outcome([0, 1], [1, 1])
        assert CLASSIFICATION.findings(seen, self.config, targets, "images").table[1]["recall"] == "50.00 %"
        assert [m.number for m in CLASSIFICATION.mistakes(seen, self.config, targets)] == [0]

    def test_classification_with_several_labels(self):
        targets = ClassTargets(NAMES, is_multi_label=True)
        assert CLASSIFICATION.confidences(torch.ones(2, 3), targets).tolist() == [0, 0]
        seen = Outcome(np.array([[1.0, -1, -1], [-1, 1, 1]]), np.eye(3, dtype=np.float32)[:2], np.zeros(2))
        found = CLASSIFICATION.findings(seen, self.config, targets, "images")
        assert found.baselines == {"a random order": 0.5} and found.table[2]["average precision"] == "-"
        assert [m.prediction for m in CLASSIFICATION.mistakes(seen, self.config, targets)] == ["dog, bird"]

    def test_others_need_not_say_anything(self):
        seen = outcome([0], [0])
        assert Objective.findings(CLASSIFICATION, seen, self.config, None, "images").remarks == []
        assert Objective.mistakes(CLASSIFICATION, seen, self.config, None) == []


@pytest.fixture
def lines(monkeypatch):
    """The lines that are drawn: label, x, y."""
    drawn, plot = [], Axes.plot

    def record(self, x, y, **options):
        drawn.append((options.get("label"), list(x), list(y)))
        return plot(self, x, y, **options)

    monkeypatch.setattr(Axes, "plot", record)
    return drawn


class TestCurves:
    def test_both_losses_and_the_metric(self, tmp_path, lines):
        history = [
            {"epoch": 0.5, "loss": 2.0},
            {"epoch": 1, "loss": 1.0},
            {"epoch": 1, "eval_loss": 1.5, "eval_accuracy": 0.25},
            {"epoch": 1, "train_loss": 1.5},
        ]
        draw_curves(history, "eval_accuracy", "accuracy", {"chance": 0.1}, tmp_path / "curves.png")
        assert lines == [
            ("training", [0.5, 1], [2.0, 1.0]),
            ("evaluation", [1], [1.5]),
            ("model", [1], [25.0]),
        ]
        assert PilImage.open(tmp_path / "curves.png").size > (400, 200)

    def test_a_loss_that_was_never_logged_is_the_mean_of_the_run(self, tmp_path, lines):
        history = [{"epoch": 2, "train_loss": 1.5}, {"epoch": 2, "eval_loss": 1.0, "eval_accuracy": 1.0}]
        draw_curves(history, "eval_accuracy", "accuracy", {}, tmp_path / "curves.png")
        assert lines[0] == ("training, mean of the run", [2], [1.5])


@pytest.fixture
def examples(tmp_path):
    """Six pictures in files, the third of which is broken, as they are evaluated on."""
    paths = [str(tmp_path / f"{number}.png") for number in range(6)]
    for number, path in enumerate(paths):
        PilImage.new("RGB", (20 + number, 30), (40 * number, 0, 0)).save(path)
    (tmp_path / "2.png").write_bytes(b"no picture")
    features = Features({"image": Image(), "label": ClassLabel(names=["$x_1$", "=1+1"])})
    rows = Dataset.from_dict({"image": paths, "label": [0, 1] * 3}, features=features)
    left_out = LeftOut(Origin("train", np.arange(10, 16)), 1.0)
    transform = SimpleNamespace(is_random=False)
    return ExampleDataset(rows, left_out, IMAGES, CLASSIFICATION, ClassTargets(["$x_1$", "=1+1"]), transform)


class TestMistakes:
    def test_examples_are_found_by_their_rows(self, examples, tmp_path):
        seen = outcome([1, 1, 1], [0, 1, 0], rows=np.array([0, 3, 4]))
        found = locate([Mistake(2, "$x_1$", "=1+1", 0.75)], seen, examples)
        assert found == [LocatedMistake(Mistake(2, "$x_1$", "=1+1", 0.75), 4, "train[14]", str(tmp_path / "4.png"))]
        assert locate([Mistake(2, "$x_1$", "=1+1", 0.75)], outcome([1], [0]), examples) == []

    def test_the_table_holds_no_formula(self, tmp_path):
        mistakes = [LocatedMistake(Mistake(0, "=1+1", "\x1b[31m,", 0.5), 0, "train[3]", None)]
        write_mistakes(mistakes, tmp_path / "errors.csv")
        with (tmp_path / "errors.csv").open(encoding="utf-8", newline="") as file:
            header, row = csv.reader(file)
        assert header == ["example", "file", "label", "prediction", "score"]
        assert row == ["train[3]", "", "'=1+1", "\\x1b[31m,", "0.5000"]

    @pytest.mark.parametrize("number", [1, 5, 20])
    def test_the_picture_has_every_mistake_up_to_sixteen(self, examples, tmp_path, monkeypatch, number):
        titles, drawn = [], []
        monkeypatch.setattr(Axes, "set_title", lambda self, label, **options: titles.append(label))
        draw = IMAGES.draw
        monkeypatch.setattr(IMAGES, "draw", lambda *inputs: drawn.append(draw(*inputs)), raising=False)
        mistakes = [
            LocatedMistake(Mistake(0, "$x_1$", "😀" * 50, 0.876), n % 6, "train[3]", f"/a/{n}.png")
            for n in range(number)
        ]
        draw_mistakes(mistakes, examples, tmp_path / "sheet.png")
        assert PilImage.open(tmp_path / "sheet.png").width == 260 * min(number, 4)
        assert len(titles) == min(number, 16)
        assert len(drawn) == len([n for n in range(len(titles)) if n % 6 != 2])  # the third cannot be read
        assert titles[0].splitlines()[0] == "right: $x_1$" and titles[0].splitlines()[2] == "0.png"

    def test_files_are_written_and_forgotten(self, examples, tmp_path):
        assert show_mistakes([], examples, tmp_path) == []
        mistakes = [LocatedMistake(Mistake(0, "$x_1$", "=1+1", 0.5), 0, "train[3]", None)]
        names = show_mistakes(mistakes, examples, tmp_path)
        assert names == ["errors.png", "errors.csv"]
        assert all((tmp_path / name).is_file() for name in names)
        forget_mistakes(tmp_path)
        assert not any((tmp_path / name).exists() for name in names)


class TestThingsToTry:
    @pytest.mark.parametrize(("loss", "is_known"), [(0.1, True), (0.9, False), (None, False)])
    def test_training_examples_that_are_known_by_heart(self, loss, is_known):
        history = [{"epoch": 1, "eval_loss": 1.0}] + ([{"epoch": 1, "loss": loss}] if loss else [])
        assert is_by_heart(history) == is_known
        first, _, _ = things_to_try(history, 3.0, 1e-3, "images", None, [])
        assert ("by heart" in first) == is_known
        assert ("`--num_train_epochs 9` instead of 3" in first) != is_known

    def test_weights_or_another_learning_rate(self):
        _, second, third = things_to_try([], 3.0, 1e-3, "images", "some/model", ["errors.png", "errors.csv"])
        assert second == "Start from weights: `--model_name_or_path some/model` instead of from scratch."
        assert "(errors.png and errors.csv)" in third
        _, second, _ = things_to_try([], 3.0, 1e-3, "images", None, [])
        assert second == "Change the learning rate: `--learning_rate 0.003`, or 0.00033."
