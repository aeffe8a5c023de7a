"""What holds for every model: a row of `MODELS` in tests/models.py is a head on a kind of input."""

import pytest
import torch
from transformers import AutoConfig, AutoModel, pipeline

from tests.models import MODELS, ModelCase, assert_checkpointing_keeps_the_gradients

# The rows between them have every module; each takes seconds to compile.
COMPILED = ("image", "image-projected", "audio-mel", "point-cloud")
LABELS = torch.tensor([3, 4])
UNSHARED = {"num_blocks": 2, "share_blocks": False, "share_cross_attends": "none"}


@pytest.fixture(params=MODELS)
def case(request) -> ModelCase:
    return MODELS[request.param]


@pytest.fixture(params=[0, 1], ids=["whole", "masked"])
def inputs(request, case) -> dict[str, torch.Tensor]:
    return case.inputs[request.param]


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


def gradients(model, inputs):
    model.zero_grad()
    model(**inputs, labels=LABELS).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


class TestSaving:
    def test_save_and_load_is_exact(self, case, tmp_path):
        model, (inputs, _) = case.make(), case.inputs
        model.train()(**inputs)  # moves the statistics of a batch norm
        model.eval().save_pretrained(tmp_path)
        assert (tmp_path / "model.safetensors").exists()
        assert type(AutoConfig.from_pretrained(tmp_path)) is case.config_class
        for loader in (case.auto_class, case.model_class):
            loaded, info = loader.from_pretrained(tmp_path, output_loading_info=True)
            assert type(loaded) is case.model_class
            assert not any(info.values()), info
            assert torch.equal(logits(loaded, inputs), logits(model, inputs))
        body = AutoModel.from_pretrained(tmp_path)
        assert type(body) is type(model.base_model)
        assert torch.equal(body(**inputs).last_hidden_state, model.base_model(**inputs).last_hidden_state)

    @pytest.mark.integration
    @pytest.mark.parametrize("batch_size", [1, 2])
    def test_pipeline(self, case, tmp_path, batch_size):
        if case.task == "audio-classification":
            pytest.importorskip("torchaudio")
        model = case.make(problem_type="single_label_classification")
        model.save_pretrained(tmp_path)
        case.processor().save_pretrained(tmp_path)
        classify = pipeline(case.task, model=str(tmp_path))
        process = classify.image_processor or classify.feature_extractor
        answers = classify([given for given, _ in case.samples], batch_size=batch_size, top_k=10)
        for (_, sample), answer in zip(case.samples, answers, strict=True):
            inputs = process(sample, return_tensors="pt", **case.processor_arguments)
            expected = logits(model, inputs)[0].softmax(-1)
            scores = {entry["label"]: entry["score"] for entry in answer}
            assert len(answer) == 10
            for index, score in enumerate(expected.tolist()):
                assert scores[f"LABEL_{index}"] == pytest.approx(score, abs=1e-5)


class TestOutputs:
    @pytest.mark.parametrize("implementation", ["eager", "sdpa"])
    def test_attentions_and_hidden_states(self, case, inputs, implementation):
        model = case.make()
        model.set_attn_implementation(implementation)
        with torch.no_grad():
            output = model(**inputs, output_attentions=True, output_hidden_states=True)
        # The decoder of a head that has one is not recorded: its cross-attend is not one of the body's.
        assert [tuple(a.shape) for a in output.cross_attentions] == [(2, 1, 8, case.num_inputs)] * 2
        assert [tuple(a.shape) for a in output.attentions] == [(2, 4, 8, 8)] * 4
        assert [tuple(h.shape) for h in output.hidden_states] == [(2, 8, 32)] * (model.config.num_hidden_layers + 1)
        for weights in (*output.attentions, *output.cross_attentions):
            torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
        torch.testing.assert_close(output.hidden_states[0][0], model.base_model.encoder.latents)
        latents = output.hidden_states[-1]
        with torch.no_grad():
            pooled = latents.mean(1) if case.pools_by_mean else model.pooler(latents)
            expected = model.classifier(pooled)
        torch.testing.assert_close(output.logits, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(logits(model, inputs), expected, atol=1e-5, rtol=1e-5)

    def test_tuples(self, case):
        model, (inputs, _) = case.make(), case.inputs
        loss, scores = model(**inputs, labels=LABELS, return_dict=False)
        assert loss.dim() == 0 and scores.shape == (2, 10)
        (latents,) = model.base_model(**inputs, return_dict=False)
        assert latents.shape == (2, 8, 32)

    def test_batch_of_one_equals_batch_of_many(self, case, inputs):
        model = case.make()
        alone = logits(model, {name: value[1:] for name, value in inputs.items()})
        torch.testing.assert_close(alone, logits(model, inputs)[1:], atol=1e-5, rtol=1e-5)

    def test_labels_are_checked(self, case):
        model, (inputs, _) = case.make(), case.inputs
        with pytest.raises(ValueError, match=r"Labels must be in \[0, 9\], .* num_labels=10: .*10"):
            model(**inputs, labels=torch.tensor([1, 10]))
        many = case.make(problem_type="multi_label_classification")
        with pytest.raises(ValueError, match=r"logits' shape \(2, 10\), got \(2,\)"):
            many(**inputs, labels=torch.tensor([1, 2]))


class TestAgreement:
    def test_attention_implementations(self, case, inputs):
        eager, sdpa = case.make(), case.make()
        eager.set_attn_implementation("eager")
        sdpa.set_attn_implementation("sdpa")
        torch.testing.assert_close(logits(sdpa, inputs), logits(eager, inputs), atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(gradients(sdpa, inputs), gradients(eager, inputs), atol=1e-4, rtol=1e-3)

    @pytest.mark.integration
    def test_flex_attention(self):
        # On a CPU it needs 16 keys or more: it gives NaN below. One row is enough, as it takes long to compile.
        case = MODELS["image"]
        model, (inputs, _) = case.make(num_latents=32), case.inputs
        model.set_attn_implementation("eager")
        expected = logits(model, inputs)
        model.set_attn_implementation("flex_attention")
        torch.testing.assert_close(logits(model, inputs), expected, atol=1e-4, rtol=1e-5)

    @pytest.mark.integration
    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    def test_cross_attention_implementations(self, case, inputs, attention):
        expected = None
        for implementation in case.implementations:
            model = case.make(cross_attention_implementation=implementation)
            model.set_attn_implementation(attention)
            actual = logits(model, inputs), gradients(model, inputs)
            expected = expected or actual
            torch.testing.assert_close(actual[0], expected[0], atol=1e-4, rtol=1e-5)
            torch.testing.assert_close(actual[1], expected[1], atol=1e-4, rtol=1e-3)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_half_precision(self, case, dtype):
        model, (inputs, _) = case.make(), case.inputs
        expected = logits(model, inputs)
        actual = logits(model.to(dtype), inputs)  # inputs come in float32, as a processor makes them
        assert actual.dtype == dtype
        assert (actual.float() - expected).norm() / expected.norm() < 0.05
        torch.testing.assert_close(actual.float(), expected, atol=0.3, rtol=0.1)

    @pytest.mark.integration
    @pytest.mark.parametrize("name", COMPILED)
    def test_compiles_into_one_graph(self, name):
        torch.compiler.reset()  # or the rows together would exceed the limit of recompilations
        case = MODELS[name]
        model, (inputs, masked) = case.make(num_self_attends_per_block=1), case.inputs
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits)
        torch.testing.assert_close(compiled(**masked).logits, model(**masked).logits, atol=1e-5, rtol=1e-5)
        compiled(**inputs, labels=LABELS).loss.backward()
        assert all(p.grad is not None for p in model.parameters())


class TestTraining:
    @pytest.mark.parametrize("changes", [{}, UNSHARED], ids=["shared", "unshared"])
    def test_every_parameter_gets_a_gradient(self, case, changes):
        model, (inputs, _) = case.make(**changes).train(), case.inputs
        model(**inputs, labels=LABELS).loss.backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []

    @pytest.mark.parametrize("schedule", [{}, {"num_blocks": 4, "num_cross_attends": 4}], ids=["2 blocks", "4 blocks"])
    def test_gradient_checkpointing_changes_nothing(self, case, schedule):
        inputs, _ = case.inputs
        assert_checkpointing_keeps_the_gradients(case.make(**schedule), {**inputs, "labels": LABELS})


VARIANTS = {
    f"{case.config_class.model_type}-{variant}": (case, variant)
    for case in MODELS.values()
    for variant in case.variants
}


@pytest.mark.parametrize(("case", "variant"), VARIANTS.values(), ids=VARIANTS)
def test_every_variant_builds(case, variant):
    with torch.device("meta"):
        model = case.model_class(case.config_class.from_variant(variant))
    assert all(p.is_meta for p in model.parameters())
