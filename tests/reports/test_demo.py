"""The report's verdicts follow from the numbers, and its page needs nothing from outside."""

import dataclasses
import json
import re

import numpy as np
import pytest

from lamae.evaluate.compare import RANDOM_WEIGHTS, Comparison
from lamae.evaluate.probe.fit import probe_arrays
from lamae.evaluate.reconstruct.reconstruction import SITUATIONS, Reconstruction, ReconstructionErrors
from lamae.evaluate.reconstruct.trivial import LINEAR, TRIVIAL
from lamae.reports.demo import AS_TRAINED, Demo, check_claims, write_demo_report
from lamae.reports.paper import plot_record
from tests.evaluate.test_probe import simulate


def errors(model_error, *, num_records=40):
    """Every predictor is off by 1 on every hidden sample, the model by ``model_error``."""
    predictors = ("model", *TRIVIAL, LINEAR)
    count = np.full((num_records, len(SITUATIONS), 12), 100)
    squared = np.ones((num_records, len(SITUATIONS), 12, len(predictors))) * count[..., None]
    squared[..., 0] *= model_error
    defined = np.full(squared.shape[1:], 100 * num_records)
    defined[0, :, predictors.index("interpolation")] = 0
    return ReconstructionErrors(squared, count, defined, predictors, np.arange(num_records), "mV")


def results(*, model_error=0.5, noise=1.0):
    """A comparison in which LAMAE sees the features and the others a noisy copy, and what else a demo shows."""
    features, truth = simulate(400)
    rng = np.random.default_rng(99)
    disturbed = features.x_ND + noise * rng.normal(size=features.x_ND.shape).astype(np.float32)
    noisy = dataclasses.replace(features, x_ND=disturbed)
    probes = {
        name: probe_arrays(dataclasses.replace(of, name=name), truth)
        for name, of in {"LAMAE": features, "independent": noisy, RANDOM_WEIGHTS: noisy}.items()
    }
    comparison = Comparison(
        num_records=800,
        protocol="simulated",
        probes={"record": probes, "mean": {}},
        knn=probes,
        curves={},
        robustness={},
        reconstruction={AS_TRAINED: {"LAMAE": errors(model_error), "independent": errors(1.0)}},
        lead_weights={"LAMAE": rng.dirichlet(np.ones(12), size=len(probes["LAMAE"].test_rows))},
        finetuned={},
    )
    wave = np.sin(np.arange(1000) / 9)[None].repeat(12, 0)
    hidden = np.zeros((12, 1000), dtype=bool)
    hidden[7] = True
    run = {
        "num_parameters": 1000,
        "steps": 30,
        "wall_s": 12.0,
        "metrics": [{"step": s, "samples": 32 * s, "loss": 2 / s} for s in range(1, 31)],
    }
    demo = Demo(
        dataset={"num_records": 800, "num_subjects": 400, "splits": {}, "rejects": {}, "description": "<made here>"},
        runs={"LAMAE": run, "independent": run},
        recordings={"record & co": plot_record(wave, rate_hz=100.0, title="record & co")},
        examples=[Reconstruction("example", wave, 0.9 * wave, hidden, np.ones_like(hidden), 100.0, "mV")],
        stages={"synth": 1.0, "train": 20.0},
        environment={"torch": "2.13.0"},
        null_code="NOISE",
    )
    return comparison, demo


def verdict_about(words, *, null_code="NOISE", **values):
    comparison, _ = results(**values)
    claims = check_claims(comparison, null_code=null_code)
    (found,) = [claim.verdict for claim in claims if words in claim.statement]
    return found


@pytest.mark.parametrize(("model_error", "verdict"), [(0.5, "holds"), (0.8, "holds"), (0.81, "does not hold")])
def test_reconstruction_is_scored_against_the_best_trivial_predictor(model_error, verdict):
    assert verdict_about("infers hidden leads", model_error=model_error) == verdict


def test_better_than_random_needs_an_interval_above_zero():
    assert verdict_about("random weights", noise=5.0) == "holds"
    assert verdict_about("random weights", noise=0.0) == "does not hold"
    assert verdict_about("independent", noise=0.0) == "not decided", "a tie decides nothing"


def test_null_code_is_scored_by_whether_its_interval_covers_one_half():
    assert verdict_about("NOISE is not in the waveform") == "holds"
    assert verdict_about("SEEN is not in the waveform", null_code="SEEN") == "does not hold"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(the comparison handed over, where it was written, the summary returned)"""
    out = tmp_path_factory.mktemp("demo") / "out"
    comparison, demo = results()
    return comparison, out, write_demo_report(comparison, demo, out)


def test_json_holds_the_numbers_and_no_nan(written):
    comparison, out, summary = written
    text = (out / "report.json").read_text()
    loaded = json.loads(text)
    assert "NaN" not in text
    assert loaded["probe"]["LAMAE"]["macro_auroc"]["value"] == pytest.approx(comparison.first.macro.value)
    assert set(loaded["probe_differences"]) == {"LAMAE - independent", "LAMAE - random weights"}
    assert loaded["runs"]["LAMAE"]["last_loss"] == pytest.approx(2 / 30)
    assert loaded["reconstruction"]["LAMAE"][0]["mse"]["interpolation"] is None
    assert [claim["verdict"] for claim in loaded["claims"]] == [claim["verdict"] for claim in summary["claims"]]


def test_page_is_self_contained_and_escaped(written):
    page = (written[1] / "report.html").read_text()
    assert not re.search(r"(src|href)=[\"']?(https?:|//|file:|/)", page)
    assert "<script" not in page
    assert "&lt;made here&gt;" in page
    assert page.count("<img ") >= 7
    assert all(source.startswith("data:image/") for source in re.findall(r'<img src="([^"]{20})', page))


def test_same_results_give_the_same_page(tmp_path):
    for name in ("a", "b"):
        comparison, demo = results()
        write_demo_report(comparison, dataclasses.replace(demo, recordings={}, examples=[]), tmp_path / name)
    assert (tmp_path / "a" / "report.html").read_bytes() == (tmp_path / "b" / "report.html").read_bytes()
