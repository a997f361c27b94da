"""The paper's protocol: every data set, every method, stopping and going on, several processes."""

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from rich.console import Console

from benchmarks import __main__, command_line
from benchmarks.common.errors import DataError
from benchmarks.common.metrics import batch_macro_f1, macro_f1
from benchmarks.common.records import at_work_on
from benchmarks.methods.base import Method
from benchmarks.methods.entries import ENTRIES
from benchmarks.paper import run as run_module
from benchmarks.paper import training as training_module
from benchmarks.paper.datasets import PAPER_DATA, paper_data
from benchmarks.paper.datasets.base import Resolution
from benchmarks.paper.datasets.reading import Reader
from benchmarks.paper.datasets.sample import (
    Look,
    write_image_encoder,
    write_sample,
    write_text_encoder,
)
from benchmarks.paper.datasets.splits import draw_split
from benchmarks.paper.encoders import (
    PictureEncoder,
    SeriesEncoder,
    Sizes,
    SoundEncoder,
    build_model,
    load_tokenizer,
    residual_network,
)
from benchmarks.paper.protocol import PROTOCOLS, PUBLISHED, Protocol, Published, method_config
from benchmarks.paper.ranks import Ranks, start_ranks
from benchmarks.paper.run import rehearsal_clips, reproduce
from benchmarks.paper.settings import Settings
from benchmarks.paper.tables import Row, cells
from benchmarks.paper.tables import rows as table_rows
from benchmarks.paper.throughput import measure
from benchmarks.paper.training import Plan, Training, derived_seed

QUIET = Console(quiet=True)
CPU = torch.device("cpu")
SIZES = Sizes(Resolution(pixels=16, sound=32, tokens=8), stages=(8,), depth=1, series=8)
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """A made-up copy of every data set, and encoders; read only."""
    folder = tmp_path_factory.mktemp("samples")
    for name in PAPER_DATA:
        write_sample(name, folder / name)
    write_text_encoder(folder / "electra")
    write_image_encoder(folder / "resnet")
    return folder


@pytest.fixture(autouse=True)
def _few_rows_a_batch(monkeypatch):
    monkeypatch.setattr(training_module, "BATCH_SIZE", 6)


@pytest.fixture(autouse=True)
def _nothing_left_behind():
    yield
    torch.use_deterministic_algorithms(False)


def settings(samples, out, name, **options):
    options = {"workers": 0, "rehearse": True, "jobs": 1} | options
    return Settings(
        samples / name,
        out,
        text_encoder=str(samples / "electra"),
        image_encoder=str(samples / "resnet"),
        **options,
    )


def methods_of(place):
    """A seventh of all methods, and the two that have a row of the paper everywhere."""
    return list(dict.fromkeys([*list(ENTRIES)[place :: len(PAPER_DATA)], "joint", "midas"]))


# The command


@pytest.mark.parametrize("name", PAPER_DATA)
def test_check_and_reproduce(samples, tmp_path, name, monkeypatch, capsys):
    """Every method on one of the sets at least."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
        __main__.main()
        return capsys.readouterr().out

    root = ["--root", str(samples / name)]
    assert "can be used, 0 cannot" in call("check", name, *root)
    methods = methods_of(list(PAPER_DATA).index(name))
    options = ["--out", str(tmp_path), "--workers", "0", "--rehearse", "--seeds", "0"]
    options += ["--text-encoder", str(samples / "electra")]
    options += ["--image-encoder", str(samples / "resnet")]
    printed = call("reproduce", name, *root, *options, "--method", *methods)
    table = (tmp_path / f"{name}-rehearsal" / "table.md").read_text()
    for method in methods:
        published = PUBLISHED[name].get(method)
        if not ENTRIES[method].alone:
            (line,) = (
                x for x in table.splitlines() if x.startswith(f"| {ENTRIES[method].title} |")
            )
            assert published is None or f"{published.accuracy:.2f}" in line
    assert "there already" not in printed
    again = call("reproduce", name, *root, *options, "--method", *methods)
    assert again.count("there already") == len(list((tmp_path).glob("*/runs/*.json")))
    for file in tmp_path.glob("*/runs/*"):
        scores = json.loads(file.read_text())["test"]
        assert all(score == score for score in scores.values())  # no NaN


def test_a_report_has_all_runs_and_no_folder_of_this_machine(samples, tmp_path):
    asked = settings(samples, tmp_path / "out", "food101")
    root = shutil.copytree(samples / "food101", tmp_path / "food101")
    (root / "images" / "train" / "sour_0.jpg").unlink()
    asked = replace(asked, root=root, leave_out_broken=True)
    reproduce("food101", ["joint"], [1, 0], asked, Ranks(), QUIET)
    folder = tmp_path / "out" / "food101-rehearsal"
    text = (folder / "report.json").read_text()
    assert str(tmp_path.parent) not in text
    assert str(samples) not in text
    told = json.loads(text)
    assert told["data"]["clips"] == 29
    assert told["data"]["clips of a class"] == {"dish-0": 9, "dish-1": 10, "dish-2": 10}
    assert told["data"]["cannot be used"] == {"without image": 1}
    assert "30 of 3 classes" in told["data"]["copies"][-2]
    assert told["protocol"] == "paper"
    assert told["splits"].keys() == {"0", "1"}
    assert told["splits"]["0"] != told["splits"]["1"]
    for run in told["runs"]:
        kept = json.loads((folder / "runs" / f"joint,seed={run['seed']}.json").read_text())
        assert run == kept | {"text_encoder": "electra", "image_encoder": run["image_encoder"]}
        assert run["device"] == "cpu"
        assert {"versions", "protocol", "config", "precision", "test"} <= run.keys()
    (folder / "splits" / "seed=0.json").unlink()
    reproduce("food101", ["joint"], [1, 0], asked, Ranks(), QUIET)
    again = json.loads((folder / "report.json").read_text())
    assert again["splits"] == told["splits"] | {"0": None}
    assert again["runs"] == told["runs"]


def test_a_made_up_copy_has_what_a_rehearsal_needs(tmp_path, monkeypatch):
    root = tmp_path / "food101"
    encoders = f"--text-encoder {root}/text-encoder --image-encoder {root}/image-encoder"
    options = f"--out {tmp_path}/out --workers 0 --rehearse --seeds 0 --method joint"
    for line in (
        f"sample food101 {root}",
        f"reproduce food101 --root {root} {encoders} {options}",
    ):
        monkeypatch.setattr(sys, "argv", ["benchmarks", *line.split()])
        __main__.main()
    assert (tmp_path / "out" / "food101-rehearsal" / "table.md").exists()


def test_a_broken_copy_stops_the_run_unless_told_otherwise(samples, tmp_path):
    root = shutil.copytree(samples / "twitter2015", tmp_path / "twitter2015")
    (root / "images" / "3.jpg").write_bytes(b"")
    asked = replace(settings(samples, tmp_path / "out", "twitter2015"), root=root)
    with pytest.raises(DataError, match=r"(?s)cannot be used: 1\n.*3\.jpg.*--leave-out-broken"):
        reproduce("twitter2015", ["joint"], [0], asked, Ranks(), QUIET)
    console = Console(file=io.StringIO(), width=200)
    asked = replace(asked, leave_out_broken=True)
    reproduce("twitter2015", ["joint"], [0], asked, Ranks(), console)
    assert "clips that cannot be used: 1" in console.file.getvalue()
    (run,) = (tmp_path / "out").glob("*/runs/*.json")
    assert json.loads(run.read_text())["clips"] == 29


def test_what_does_not_exist_is_refused(samples, tmp_path):
    asked = settings(samples, tmp_path, "food101")
    with pytest.raises(DataError, match="there is no method midsa; choose from unimodal"):
        reproduce("food101", ["midsa"], [0], asked, Ranks(), QUIET)
    nowhere = str(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no tokenizer in .*nowhere.*--text-encoder DIR"):
        reproduce("food101", ["joint"], [0], replace(asked, text_encoder=nowhere), Ranks(), QUIET)
    with pytest.raises(DataError, match=r"no network in .*nowhere.*--image-encoder DIR"):
        reproduce("food101", ["joint"], [0], replace(asked, image_encoder=nowhere), Ranks(), QUIET)


@pytest.mark.parametrize("damaged", ["model.safetensors", "config.json", "tokenizer_config.json"])
def test_damaged_encoders_are_named(samples, tmp_path, damaged):
    folder = shutil.copytree(samples / "electra", tmp_path / "electra")
    content = (folder / damaged).read_bytes()
    (folder / damaged).write_bytes(content[: len(content) // 2])
    asked = replace(settings(samples, tmp_path / "out", "food101"), text_encoder=str(folder))
    with pytest.raises(DataError, match=r"no (network|tokenizer) in .*electra.*--text-encoder DIR"):
        reproduce("food101", ["joint"], [0], asked, Ranks(), QUIET)


def test_a_run_with_other_settings_is_not_taken_for_this_one(samples, tmp_path):
    asked = settings(samples, tmp_path, "mosi")
    reproduce("mosi", ["joint"], [0], asked, Ranks(), QUIET)
    with pytest.raises(DataError, match=r"is a run with \{'precision': 'float32'\}; move it away"):
        reproduce("mosi", ["joint"], [0], replace(asked, precision="bfloat16"), Ranks(), QUIET)


@pytest.mark.parametrize("change", ["workers", "cache"])
def test_workers_and_the_cache_change_the_time_only(samples, tmp_path, change):
    """Frames of the encoder's own size: so the crops from the cache are the same."""
    write_sample("kinetics-sounds", tmp_path / "data", Look(width=32, height=32))
    results = []
    for options in ({}, {"workers": 2} if change == "workers" else {"cache": tmp_path / "cache"}):
        out = tmp_path / f"out-{len(results)}"
        asked = settings(samples, out, "kinetics-sounds", **options)
        asked = replace(asked, root=tmp_path / "data")
        reproduce("kinetics-sounds", ["joint"], [0], asked, Ranks(), QUIET)
        results.append(json.loads(next(out.glob("*/runs/*.json")).read_text())["test"])
    assert results[0] == results[1]


def test_a_rehearsal_takes_few_clips_of_each_part(samples):
    clips = paper_data("mosi").scan(samples / "mosi").clips
    chosen = rehearsal_clips(clips * 3)
    assert {clip.part for clip in chosen} == {"train", "validation", "test"}
    assert all(
        sum(c.label == label and c.part == part for c in chosen) <= 20
        for label in (0, 1)
        for part in ("train", "validation", "test")
    )


# The protocol


def test_midas_has_the_warm_up_and_the_weight_of_its_data_set():
    from benchmarks.methods.midas import Midas

    expected = {
        "cremad": (10, 1, 70),
        "kinetics-sounds": (10, 5, 70),
        "ucf101": (0, 1, 70),
        "food101": (2, 1, 30),
    }
    for name, (warmup, weight, epochs) in expected.items():
        method = ENTRIES["midas"].build(method_config("midas", PROTOCOLS[name]))
        assert isinstance(method, Midas)
        assert (round(method.warmup * epochs), method.misaligned_weight) == (warmup, weight)
        assert PROTOCOLS[name].epochs == epochs
        plain = ENTRIES["plain-swap"].build(method_config("plain-swap", PROTOCOLS[name]))
        assert plain.warmup == 0
        assert plain.misaligned_weight == weight
    assert method_config("joint", PROTOCOLS["cremad"]) == {}
    assert method_config("ogm", PROTOCOLS["cremad"]) == {"alpha": 0.8}


def test_every_data_set_has_a_protocol_and_published_numbers_of_known_methods():
    assert set(PROTOCOLS) == set(PUBLISHED) == set(PAPER_DATA)
    assert all(set(rows) <= set(ENTRIES) for rows in PUBLISHED.values())


def test_the_page_has_a_command_for_every_data_set_and_the_protocol_as_it_is():
    page = (ROOT / "docs" / "reproduce.md").read_text()
    lines = re.findall(r"-m benchmarks (.*?)(?:`|#|\n)", page)
    parsed = [command_line.parse(line.split()) for line in lines]
    reproduced = {one.name for one in parsed if isinstance(one, command_line.Reproduce)}
    assert reproduced == set(PAPER_DATA)
    for name, protocol in PROTOCOLS.items():
        (row,) = re.findall(rf"^\| (?:\S+, )?{name}(?:, \S+)? \| (\d.*) \|$", page, re.MULTILINE)
        epochs, learning, midas = row.split(" | ")
        rate, every = learning.split(", ")
        warmup, weight = midas.split(", ")
        assert (
            Protocol(
                int(epochs),
                int(every),
                float(rate),
                int(warmup),
                float(weight),
                protocol.pretrained_images,
            )
            == protocol
        )


def test_macro_f1_of_batches_is_that_of_the_published_code():
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    logits = torch.nn.functional.one_hot(torch.tensor([0, 1, 1, 0, 2, 2]), 3).float()
    assert macro_f1(logits, labels) == pytest.approx(0.666667, abs=1e-6)
    assert batch_macro_f1(logits, labels, 3) == pytest.approx(0.555556, abs=1e-6)
    assert batch_macro_f1(logits, labels, 6) == pytest.approx(macro_f1(logits, labels))


def test_a_row_of_the_table():
    scores = [{"accuracy": 0.6, "macro_f1": 0.5, "batch_macro_f1": 0.4, "misaligned_accuracy": 0.1}]
    row = Row("joint", [*scores, {**scores[0], "accuracy": 0.7}], Published(60.28, 1.16, 58.6))
    assert cells(row) == (
        "joint",
        "2",
        "65.00 ± 7.07",
        "60.28 ± 1.16",
        "50.00 ± 0.00",
        "40.00 ± 0.00",
        "58.60",
        "10.00 ± 0.00",
    )
    assert cells(Row("a", [{"accuracy": 0.5}], None)) == ("a", "1", "50.00", *[""] * 5)


# Encoders


def test_the_residual_network_is_a_resnet_18():
    counts = {
        channels: sum(p.numel() for p in residual_network(channels, Sizes()).parameters())
        for channels in (1, 3)
    }
    assert counts[3] == 11_689_512 - 513_000  # the usual count, less the classifier
    assert counts[3] - counts[1] == 2 * 64 * 49


def test_features_are_means_over_time_and_space():
    torch.manual_seed(0)
    encoder = PictureEncoder(residual_network(3, SIZES), (0.5,) * 3, (0.25,) * 3, 8).eval()
    frames = torch.randint(0, 255, (2, 3, 3, 16, 16), dtype=torch.uint8)
    together = encoder(frames)
    alone = torch.stack([encoder(frames[:, [t]]) for t in range(3)]).mean(dim=0)
    torch.testing.assert_close(together, alone)
    values = (frames[:, 0].float() / 255 - 0.5) / 0.25
    maps = encoder.network(values).last_hidden_state
    torch.testing.assert_close(encoder(frames[:, [0]]), maps.mean(dim=(2, 3)))
    sound = SoundEncoder(residual_network(1, SIZES)).eval()
    assert sound(torch.randn(2, 1, 32, 128)).shape == (2, 8)


def test_a_text_is_encoded_alike_whatever_it_is_padded_to(samples):
    model, _ = built(samples, "food101")
    encoder = model.encoders["text"].eval()
    tokens = torch.tensor([[2, 5, 6, 3]])
    longer = torch.nn.functional.pad(tokens, (0, 3))
    torch.testing.assert_close(encoder(tokens), encoder(longer))
    assert not torch.allclose(encoder(tokens), encoder(torch.tensor([[2, 7, 6, 3]])))
    assert model.width == 32  # the text encoder's; the image's features are brought to it


def test_positions_matter_in_a_series():
    torch.manual_seed(0)
    encoder = SeriesEncoder(5, 3, 8).eval()
    series = torch.randn(2, 5, 3)
    assert encoder(series).shape == (2, 8)
    assert not torch.allclose(encoder(series), encoder(series.flip(1)), atol=1e-4)


def test_the_tokenizer_is_that_of_the_folder(samples):
    tokenizer = load_tokenizer(str(samples / "electra"))
    assert tokenizer("so sweet", truncation=True, max_length=3)["input_ids"] == [2, 1, 3]
    assert tokenizer("sweet")["input_ids"] == [2, 6, 3]


# Training


@pytest.mark.parametrize("method", ["joint", "midas"])
@pytest.mark.parametrize("name", ["cremad", "ucf101", "twitter2015", "mosi"])
def test_a_run_learns_the_made_up_classes(samples, tmp_path, name, method):
    training = start(samples, name, method, epochs=14, learning_rate=3e-2, save_every=1000)
    training.run(tmp_path / "checkpoint", silent)
    test = training.split.test
    logits = training.method.predict(training.encode(test))
    accuracy = (logits.argmax(dim=1) == training.labels(test)).float().mean()
    assert accuracy >= 0.8, accuracy


# Stopping and going on


def built(samples, name):
    data = paper_data(name)
    clips = data.scan(samples / name).clips
    series = {m: clips[0].sources[m].shape for m in data.modalities if name == "mosi"}
    model = build_model(
        data,
        data.modalities,
        series,
        SIZES,
        0,
        text_encoder=str(samples / "electra"),
        image_encoder=str(samples / "resnet"),
    )
    return model, clips


def start(samples, name, method, ranks=Ranks(), **plan):  # noqa: B008
    model, clips = built(samples, name)
    options = {"epochs": 3, "learning_rate": 1e-2, "save_every": 1} | plan
    data, epochs = paper_data(name), options["epochs"]
    protocol = replace(PROTOCOLS[name], epochs=epochs, warmup_epochs=1)
    built_method = ENTRIES[method].build(method_config(method, protocol))
    tokenizer = None
    if "text" in data.modalities.values():
        tokenizer = load_tokenizer(str(samples / "electra"))
    return Training(
        model,
        built_method,
        clips,
        Reader(data.modalities, SIZES.resolution, tokenizer),
        draw_split(clips, 0),
        Plan(decay_every=epochs - 1, seed=0, **options),
        CPU,
        ranks,
    )


def everything(training):
    """All numbers of a finished run."""
    state = {f"model.{k}": v for k, v in training.model.state_dict().items()}
    for place, module in enumerate(training.method.extra_modules()):
        state |= {f"{place}.{k}": v for k, v in module.state_dict().items()}
    logits = training.method.predict(training.encode(training.split.test))
    return state | {"logits": logits, "best": torch.tensor(training.best.reached)}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


class StoppedError(Exception):
    pass


def stop_at(training, step):
    """Raise in the middle of a step: its gradients are there, its checkpoint is not."""
    after_backward = training.method.after_backward

    def hook():
        if training.steps == step:
            raise StoppedError
        after_backward()

    training.method.after_backward = hook


def silent(done, total):
    pass


ONE_OF_EACH_CLASS = {entry.method: (name, 1) for name, entry in ENTRIES.items() if not entry.alone}
CARRYING = [(name, 100) for name in ("agm", "amco", "lemda", "midas", "smv")]


@pytest.mark.parametrize(("method", "save_every"), [*ONE_OF_EACH_CLASS.values(), *CARRYING])
def test_a_run_that_is_stopped_twice_equals_one_that_is_not(samples, tmp_path, method, save_every):
    """Every method; dropout, batch norm and random crops.

    With a checkpoint after every step; with one after every epoch, what carries over its end.
    """
    whole = start(samples, "twitter2015", method, learning_rate=0.1)
    whole.run(tmp_path / "whole", silent)
    for step in (2, 9):  # in the first epoch, and in the third (or the second, if that is long)
        stopped = start(samples, "twitter2015", method, learning_rate=0.1, save_every=save_every)
        stop_at(stopped, step)
        with pytest.raises(StoppedError):
            stopped.run(tmp_path / "stopped", silent)
    resumed = start(samples, "twitter2015", method, learning_rate=0.1, save_every=save_every)
    resumed.run(tmp_path / "stopped", silent)
    assert resumed.steps == whole.steps
    assert_same(everything(resumed), everything(whole))


@pytest.mark.parametrize("save_every", [2, 100])
def test_it_goes_on_from_the_last_checkpoint_with_random_crops_and_batch_norm(
    samples, tmp_path, save_every
):
    whole = start(samples, "cremad", "midas")
    whole.run(tmp_path / "whole", silent)
    stopped = start(samples, "cremad", "midas", save_every=save_every)
    stop_at(stopped, 7)
    with pytest.raises(StoppedError):
        stopped.run(tmp_path / "stopped", silent)
    resumed = start(samples, "cremad", "midas", save_every=save_every, workers=1)
    done = []
    resumed.run(tmp_path / "stopped", lambda steps, total: done.append((steps, total)))
    assert done[0] == (7 if save_every == 2 else 5, 12)
    assert done[-1] == (12, 12)
    assert_same(everything(resumed), everything(whole))


def test_a_killed_process_goes_on_to_the_same_numbers(samples, tmp_path):
    """SIGKILL in the middle of a step."""
    program = f"""
import os, signal
from pathlib import Path
from benchmarks.methods.midas import Midas
from benchmarks.paper import training
from benchmarks.paper.ranks import Ranks
from benchmarks.paper.run import reproduce
from benchmarks.paper.settings import Settings
from rich.console import Console

training.BATCH_SIZE, steps = 6, []
def kill(self):
    steps.append(0)
    if len(steps) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
Midas.after_backward = kill
asked = Settings(Path({str(samples / "cremad")!r}), Path({str(tmp_path / "killed")!r}),
                 workers=0, rehearse=True, save_every=2)
reproduce("cremad", ["midas"], [0], asked, Ranks(), Console(quiet=True))
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    (checkpoint,) = (tmp_path / "killed").glob("*/runs/*")
    assert checkpoint.suffix == ".checkpoint"
    for out in ("killed", "whole"):
        asked = settings(samples, tmp_path / out, "cremad", save_every=2)
        reproduce("cremad", ["midas"], [0], asked, Ranks(), QUIET)
    killed, whole = (
        json.loads(next((tmp_path / out).glob("*/runs/*.json")).read_text())
        for out in ("killed", "whole")
    )
    assert killed == whole
    assert not checkpoint.exists()


CHECKPOINTED = ("plan", "model", "method", "optimizer", "scheduler", "best", "progress")


def test_a_checkpoint_of_another_run_is_refused(samples, tmp_path):
    stopped = start(samples, "mosi", "joint")
    stop_at(stopped, 2)
    with pytest.raises(StoppedError):
        stopped.run(tmp_path / "checkpoint", silent)
    with pytest.raises(DataError, match=r"is of a run with Method\(\), .*not OGM\(.*delete it"):
        start(samples, "mosi", "ogm").run(tmp_path / "checkpoint", silent)


@pytest.mark.parametrize("damage", ["empty", "half", "nothing", "tensor", *CHECKPOINTED])
def test_a_damaged_checkpoint_is_named(samples, tmp_path, damage):
    file = tmp_path / "checkpoint"
    stopped = start(samples, "mosi", "midas")
    stop_at(stopped, 2)
    with pytest.raises(StoppedError):
        stopped.run(file, silent)
    content, state = file.read_bytes(), torch.load(file)
    if damage in CHECKPOINTED:
        del state[damage]
        torch.save(state, file)
    elif damage in ("nothing", "tensor"):
        torch.save({} if damage == "nothing" else torch.ones(2), file)
    else:
        file.write_bytes(content[: len(content) // 2 if damage == "half" else 0])
    with pytest.raises(DataError, match="checkpoint is damaged, delete it"):
        start(samples, "mosi", "midas").run(file, silent)


@pytest.mark.parametrize("name", ["test", "config", "entry", "clips", "modality", "protocol"])
def test_a_run_that_lacks_something_is_named(samples, tmp_path, name):
    """By the table, and by the command that would make it."""
    asked = settings(samples, tmp_path, "mosi")
    reproduce("mosi", ["joint"], [0], asked, Ranks(), QUIET)
    (file,) = tmp_path.glob("*/runs/*.json")
    run = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in run.items() if key != name}))
    with pytest.raises(DataError, match=r"joint,seed=0\.json is damaged, delete it"):
        reproduce("mosi", ["joint"], [0], asked, Ranks(), QUIET)
    with pytest.raises(DataError, match=r"joint,seed=0\.json is damaged, delete it"):
        table_rows(paper_data("mosi"), file.parents[1], "paper")
    file.write_text(json.dumps({**run, name: "something else"}))
    with pytest.raises(DataError, match=r"damaged, delete it|is a run with"):
        reproduce("mosi", ["joint"], [0], asked, Ranks(), QUIET)


def test_hidden_files_beside_the_runs_are_no_runs(samples, tmp_path):
    asked = settings(samples, tmp_path, "mosi")
    reproduce("mosi", ["joint"], [0], asked, Ranks(), QUIET)
    (tmp_path / "mosi-rehearsal" / "runs" / "._joint,seed=0.json").write_bytes(b"attributes")
    assert len(table_rows(paper_data("mosi"), tmp_path / "mosi-rehearsal", "paper")) == 1


def test_what_cannot_be_written_is_told_before_anything_is_read(samples, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "check", lambda *_: pytest.fail("the files were read"))
    (tmp_path / "file").touch()
    asked = settings(samples, tmp_path / "file", "mosi")
    with pytest.raises(DataError, match=r"file.* cannot be written \(not a directory\)"):
        reproduce("mosi", ["joint"], [0], asked, Ranks(), QUIET)
    asked = settings(samples, tmp_path / "out", "mosi", cache=tmp_path / "file" / "cache")
    with pytest.raises(DataError, match=r"cache.* cannot be written \(not a directory\)"):
        reproduce("mosi", ["joint"], [0], asked, Ranks(), QUIET)


def test_a_full_disk_ends_the_run_in_one_line(samples, tmp_path, monkeypatch):
    def full(state, file):
        raise RuntimeError("[enforce fail at inline_container.cc] . unexpected pos 64 vs 0")

    monkeypatch.setattr(training_module.torch, "save", full)
    asked = settings(samples, tmp_path, "mosi")
    with pytest.raises(DataError, match=r"joint,seed=0\.checkpoint cannot be written"):
        reproduce("mosi", ["joint"], [0], asked, Ranks(), QUIET)


def test_two_processes_do_not_make_the_same_run(samples, tmp_path):
    asked = settings(samples, tmp_path, "mosi")
    file = tmp_path / "mosi-rehearsal" / "runs" / "joint,seed=0.json"
    with at_work_on(file, tmp_path / "mosi-rehearsal" / "locks" / "joint,seed=0"):
        with pytest.raises(DataError, match=r"another process is at work on .*joint,seed=0\.json"):
            reproduce("mosi", ["joint"], [0], asked, Ranks(), QUIET)
        assert not file.exists()
        reproduce("mosi", ["ogm"], [0], asked, Ranks(), QUIET)  # another run
    reproduce("mosi", ["joint"], [0], asked, Ranks(), QUIET)
    assert file.exists()


def test_seeds_are_told_apart():
    assert derived_seed(0, 1) != derived_seed(1, 0)
    assert derived_seed(0, 1) == derived_seed(0, 1)
    assert 0 <= derived_seed(3, 4, 5) < 2**63


def test_the_speed_of_reading_and_training_can_be_measured():
    speeds = measure(
        QUIET,
        Look(clips=6, frames=2, seconds=0.1),
        SIZES,
        workers=0,
        batches=2,
        steps=1,
    )
    assert all(speed > 0 for speed in speeds)


# Precision and processes


def test_mixed_precision_touches_the_encoders_alone(samples, tmp_path):
    seen = []

    class Watch(Method):
        def loss(self, features, labels):
            seen.extend(feature.dtype for feature in features.values())
            return super().loss(features, labels)

    kinds = []
    training = start(samples, "cremad", "joint", precision="bfloat16")
    training.method.__class__ = Watch
    training.model.encoders["audio"].network.register_forward_hook(
        lambda module, inputs, output: kinds.append(output.last_hidden_state.dtype)
    )
    training.run(tmp_path / "checkpoint", silent)
    assert set(seen) == {torch.float32}
    assert set(kinds) == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in training.model.parameters())
    assert all(bool(p.isfinite().all()) for p in training.model.parameters())


def test_shares_are_of_one_size_and_hold_all_rows():
    for rows in (1, 2, 5, 6, 7):
        shares = [Ranks(rank, 3).share(list(range(rows))) for rank in range(3)]
        assert len({len(share) for share in shares}) == 1
        together = [row for rows_of_all in zip(*shares, strict=True) for row in rows_of_all]
        assert together[:rows] == list(range(rows))


def without_dropout(training):
    for module in training.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    return training


METHODS_IN_PROCESSES = ("midas", "smv", "ogm-ge")


def one_of_two(rank, samples, out, port):
    """Train three methods, stopped in between and gone on; keep what came of it."""
    torch.set_num_threads(1)
    training_module.BATCH_SIZE = 6
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_RANK": str(rank),
    }
    ranks = start_ranks()
    for method in METHODS_IN_PROCESSES:
        checkpoint = Path(out, f"{method}.checkpoint")
        stopped = without_dropout(start(samples, "mosi", method, ranks))
        stop_at(stopped, 7)
        try:
            stopped.run(checkpoint, silent)
        except StoppedError:
            ranks.wait()
        training = without_dropout(start(samples, "mosi", method, ranks))
        training.run(checkpoint, silent)
        torch.save(everything(training), Path(out, f"{method}-{rank}"))
    asked = settings(samples, Path(out, "command"), "cremad")
    reproduce("cremad", ["joint"], [0], asked, ranks, QUIET)
    ranks.leave()


def test_two_processes_agree_and_train_as_one(samples, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(one_of_two, (samples, tmp_path, port), nprocs=2)
    for method in METHODS_IN_PROCESSES:
        first, second = (torch.load(tmp_path / f"{method}-{rank}") for rank in range(2))
        assert_same(first, second)
        alone = without_dropout(start(samples, "mosi", method))
        alone.run(tmp_path / f"{method}-alone", silent)
        for name, value in everything(alone).items():
            torch.testing.assert_close(first[name], value, rtol=1e-3, atol=1e-4, msg=name)
    (run,) = (tmp_path / "command").glob("*/runs/*")
    assert json.loads(run.read_text())["processes"] == 2
