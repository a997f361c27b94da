"""A public name is a promise: an inventory, the dependencies, and the docstrings' examples."""

import doctest
import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import midas_aug
from midas_aug import (
    FactoredLinear,
    MidasAugError,
    MidasLoss,
    MisalignAugment,
    MisalignedBatch,
    WeakModalityWeight,
    diagnostics,
    functional,
)
from midas_aug.confidence import SkillConfidence

ROOT = Path(__file__).parents[1]

INVENTORY = {
    "midas_aug": """FactoredLinear FusionWeights LossTerms MidasAugError MidasLoss MisalignAugment
        MisalignedBatch RatioWeakModalityWeight SwapPlan WeakModalityWeight __version__ confidence
        functional protocols recipes targets""",
    "midas_aug.protocols": "ConfidenceProvider Hardness LabelledRows Pairing Target",
    "midas_aug.targets": "ClassIndex Continuous Distribution MultiLabel Target resolve_target",
    "midas_aug.recipes": "Choice Recipe no_harm paper plain_swap skill",
    "midas_aug.functional": """SwapPlan fit_fusion_weights gather_rows hard_sample_weights
        label_shares
        misaligned_accuracy misaligned_cross_entropy permutation_partners plan_swaps
        ratio_weak_modality_step same_class_partners sample_partners shares_by_source skill_score
        soft_targets
        true_class_confidence weak_modality_step""",
    "midas_aug.confidence": """CalibratedConfidence ConfidenceProvider FrozenConfidence
        HeadConfidence LogitConfidence LogitProvider PrototypeConfidence SkillConfidence
        TableConfidence UniformConfidence""",
    "midas_aug.diagnostics": """Advice Comparison DiscrepancyRatio Finding LinearProbes
        MisalignedAccuracy MisalignedConfidence ModalityReport Score ShareCollapse ShareEntropy
        TrainingLog accuracy
        accuracy_shapley advise all_subsets collapsed_share_fraction cross_fitted_fusion diagnose
        diagnose_across_ranks discrepancy_ratio late_fusion learning_speed linear_probes
        draw_curves draw_hardness draw_report draw_shares expected_calibration_error
        hardness_quantiles misaligned_accuracy misaligned_confidence
        permutation_importance remove_modality report_from_logits sample_shapley shapley
        share_entropy""",
}
SIGNATURES = {
    MisalignAugment: "modalities num_classes * target label confidence pairing swap hardness "
    "misaligned_weight present keep seed validate",
    MisalignAugment.draw: "self batch labels * present plan generator materialize",
    MisalignedBatch.label: "self confidence * unimodal_logits features",
    MisalignAugment.__call__: "self batch labels * unimodal_logits present plan generator "
    "materialize",
    MisalignAugment.collate: "self collate_fn * materialize",
    MidasLoss: "num_modalities * weak_modality unimodal_weight warmup_epochs warmup_steps",
    SkillConfidence: "modalities num_classes * target ema eps class_counts",
    SkillConfidence.cross_fit: "self fit labels * folds groups seed",
    WeakModalityWeight: "num_modalities * step_size max_alpha sync process_group",
    functional.sample_partners: "labels * generator num_classes",
    functional.plan_swaps: "labels num_modalities * swap pairing features generator num_classes "
    "present",
    FactoredLinear: "feature_dims out_features bias device dtype",
    FactoredLinear.forward: "self features out",
    functional.gather_rows: "tree index",
    functional.true_class_confidence: "logits labels * temperature",
    functional.label_shares: "confidence source",
    functional.skill_score: "logits labels class_counts",
    functional.shares_by_source: "confidence source * present",
    functional.soft_targets: "source_labels shares num_classes",
    functional.hard_sample_weights: "features plan * similarity present",
    functional.misaligned_cross_entropy: "logits source_labels shares alpha",
    functional.weak_modality_step: "alpha shares logits source_labels * valid step_size max_alpha",
    functional.misaligned_accuracy: "logits source_labels * valid same_label",
    diagnostics.diagnose: "model loader modalities * encode num_classes target present label "
    "unimodal training log removal draws resamples seed name device progress",
    diagnostics.diagnose_across_ranks: "model loader modalities options",
    diagnostics.report_from_logits: "arrays * modalities target resamples seed name",
}
EXTRAS = {  # what has to be there for a module of the integrations
    "midas_aug.integrations.lightning": ["lightning"],
    "midas_aug.integrations.huggingface": ["transformers", "accelerate"],
}
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(midas_aug.__path__, prefix="midas_aug.")
    if all(importlib.util.find_spec(package) for package in EXTRAS.get(module.name, []))
)


@pytest.mark.parametrize("name", INVENTORY)
def test_the_public_names_are_these_and_all_have_docstrings(name):
    module = importlib.import_module(name)
    assert sorted(module.__all__) == sorted(INVENTORY[name].split())
    for public in module.__all__:
        value = getattr(module, public)
        assert isinstance(value, str) or inspect.getdoc(value)


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__qualname__)
def test_the_signatures_are_the_documented_ones(function):
    words = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        words.append(parameter.name)
    assert " ".join(words) == SIGNATURES[function]


@pytest.mark.parametrize("name", ["midas_aug", *MODULES])
def test_the_examples_in_docstrings_run(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


def test_functions_and_classes_of_the_method_have_an_executed_example():
    for module in (functional, diagnostics):
        for public in module.__all__:
            value = getattr(module, public)
            if inspect.isfunction(value) and not public.startswith("draw_"):
                assert ">>>" in (inspect.getdoc(value) or ""), public


IMPORTS = """
import sys
import {first}
known = {{name.partition(".")[0] for name in sys.modules}}
import {package}
extra = sorted({{name.partition(".")[0] for name in sys.modules}} - known - {{"{package}"}})
extra = [name for name in extra if name not in sys.stdlib_module_names]
print(" ".join(extra))
"""


def loaded_by(package: str) -> list[str]:
    script = IMPORTS.format(
        first="torch, numpy.random, typing_extensions, torch.utils.data", package=package
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stdout.split()


def test_importing_the_package_loads_nothing_but_its_three_dependencies():
    assert loaded_by("midas_aug") == []
    assert loaded_by("midas_aug.diagnostics") == ["midas_aug"]
    assert loaded_by("midas_aug.__main__") == ["midas_aug"]


def test_the_diagnostics_are_loaded_only_where_they_are_asked_for():
    script = "import sys, midas_aug; print('midas_aug.diagnostics' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "False"


def test_the_import_test_can_fail():
    assert "pygments" in loaded_by("rich.syntax")


def test_the_project_file_asks_for_three_dependencies():
    metadata = importlib.metadata.metadata("midas-aug")
    requirements = metadata.get_all("Requires-Dist") or []
    names = [entry.split(">=")[0] for entry in requirements if "extra ==" not in entry]
    assert sorted(names) == ["numpy", "torch", "typing-extensions"]
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["Version"] == midas_aug.__version__


def test_there_is_one_kind_of_error_and_it_is_a_value_error():
    assert issubclass(MidasAugError, ValueError)
    for name in MODULES:
        source = inspect.getsource(importlib.import_module(name))
        assert "assert " not in source, name
        raised = {line.strip() for line in source.splitlines() if "raise " in line}
        if "def __getattr__(name: str)" in source:  # Python's protocol for names loaded when asked
            raised = {line for line in raised if not line.startswith("raise AttributeError(")}
        assert all("raise MidasAugError(" in line for line in raised if line.startswith("raise"))
