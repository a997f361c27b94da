"""What only a GPU can tell: syncs, CUDA graphs, times against counted bytes, float64 agreement."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.speed.losses import variants as loss_variants
from benchmarks.speed.measure import Call, Case, measure
from benchmarks.speed.step import NAMES, Heads
from midas_aug import MidasLoss, MisalignAugment
from midas_aug.functional import gather_rows, plan_swaps, sample_partners

Checks = dict[str, float]


def run_checks(device: torch.device, *, rounds: int, seconds: float, small: bool = False) -> Checks:
    """Everything of the CUDA table, by the names of `goals.H100_GOALS`."""
    checks: Checks = {
        "syncs": float(waits(device)),
        "stale replays": float(stale_replays(device)),
        "error": largest_error(device),
    }

    def times(case: Case) -> dict[str, float]:
        result = measure(case, device, rounds=rounds, seconds=seconds)
        return {name: spread.median for name, spread in result.microseconds.items()}

    heads = Heads.build(64, 16 if small else 512, 10, device)
    eager = heads.variants()
    steps = {name: eager[name] for name in ("joint + unimodal", "ours", "public code")}
    graphs = {f"{name}, graph": captured(steps[name]) for name in ("joint + unimodal", "ours")}
    took = times(Case("heads", {}, steps | graphs, "joint + unimodal"))
    joint = took["joint + unimodal"]
    checks["extra, eager"] = (took["ours"] - joint) / (took["public code"] - joint)
    checks["extra, graph"] = took["ours, graph"] - took["joint + unimodal, graph"]
    for kind, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        checks[f"step, {kind}"] = times(
            Case("heads", {}, {"step": under_autocast(heads, dtype)}, "step")
        )["step"]

    checks |= times(Case("single", {}, _single(device, 256 if small else 1), "pairing, eager"))
    loss = loss_variants(*((64, 100) if small else (4096, 20_000)), device)
    took = times(Case("loss", {}, {m: loss[m] for m in ("hard labels", "ours")}, "hard labels"))
    checks["loss"] = took["ours"] / took["hard labels"]
    return checks


def _single(device: torch.device, shrink: int) -> dict[str, Call]:
    labels = torch.randint(10, (1024,), device=device)
    many = torch.randint(1000, (1_000_000 // shrink,), device=device)
    features = [torch.randn(8192, max(512 // shrink, 1), device=device) for _ in NAMES]
    images = torch.randn(64, 3, 224, max(224 // shrink, 1), device=device)
    sources = {}
    for rows in (8192, 64):
        plan = plan_swaps(torch.arange(rows, device=device) % 10, 2)
        own = torch.arange(rows, device=device)
        sources[rows] = [torch.cat([own, plan.source[:, m]]) for m in range(2)]

    def pair() -> object:
        return sample_partners(labels, num_classes=10)

    return {
        "pairing, eager": pair,
        "pairing, graph": captured(pair),
        "pairing, million": lambda: sample_partners(many, num_classes=1000),
        "swap, features": lambda: [
            gather_rows(part, index) for part, index in zip(features, sources[8192], strict=True)
        ],
        "swap, images": lambda: gather_rows(images, sources[64][0]),
    }


def under_autocast(heads: Heads, dtype: torch.dtype) -> Call:
    """A step of the heads with a matrix product in ``dtype``."""
    kind = heads.labels.device.type

    def step() -> None:
        with torch.autocast(kind, dtype=dtype, enabled=dtype != torch.float32):
            loss = heads.ours(heads.features)
        loss.backward()  # type: ignore[no-untyped-call]

    return step


def captured(step: Callable[[], object]) -> Call:
    """``step`` as a CUDA graph; the call replays it."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def replay() -> None:
        graph.replay()

    return replay


def waits(device: torch.device) -> int:
    """1 if a whole training step, optimiser included, makes the host wait for the device."""
    heads = Heads.build(64, 32, 10, device)
    modules = (heads.unimodal, heads.fusion)
    optimizer = torch.optim.SGD([p for module in modules for p in module.parameters()], lr=0.1)
    heads.variants()["ours"]()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = heads.ours(heads.features)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    except RuntimeError as error:
        print(error)  # noqa: T201
        return 1
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return 0


def stale_replays(device: torch.device, replays: int = 8) -> int:
    """How many of some replays of augment and loss drew what the last one drew, or left α still."""
    heads = Heads.build(64, 32, 10, device)
    source = torch.empty(192, 2, dtype=torch.int64, device=device)

    def step() -> None:
        unimodal = heads.classify(heads.features)
        out = heads.augment(heads.features, heads.labels, unimodal_logits=unimodal)
        source.copy_(out.source)
        # A head that never listens to the weak modality: its α has to rise in every step.
        one_sided = 5 * torch.nn.functional.one_hot(out.source_labels[:, 1], 10).float()
        heads.criterion(one_sided, out, unimodal)

    with torch.no_grad():  # audio is the weak one: video is sure of every label
        heads.unimodal["audio"].get_parameter("weight").zero_()
        heads.unimodal["video"].get_parameter("weight").copy_(9 * torch.eye(10, 32))
        heads.features["video"].copy_(torch.nn.functional.one_hot(heads.labels, 32))
    replay = captured(step)
    rule, stale = heads.criterion.weak_modality, 0
    assert rule is not None
    drawn, alpha = source.clone(), rule.alpha.clone()
    for _ in range(replays):
        replay()
        stale += bool(torch.equal(drawn, source))
        stale += not bool(rule.alpha.max() > alpha.max())
        drawn, alpha = source.clone(), rule.alpha.clone()
    return stale


def largest_error(device: torch.device, rows: int = 257, classes: int = 11) -> float:
    """Largest difference of loss, gradients and α to the CPU in float64, on fresh inputs."""
    seed = int(torch.randint(1 << 30, ()))
    generator = torch.Generator().manual_seed(seed)
    features = {m: torch.randn(rows, 16, generator=generator).double() for m in NAMES}
    labels = torch.randint(-1, classes, (rows,), generator=generator)
    weights = torch.randn(classes, 32, generator=generator).double()
    unimodal = {m: torch.randn(rows, classes, generator=generator).double() for m in NAMES}
    plan = plan_swaps(labels, 2, generator=generator)

    def outcome(place: torch.device, dtype: torch.dtype) -> list[Tensor]:
        leaves = {m: f.to(place, dtype).requires_grad_() for m, f in features.items()}
        own = {m: logits.to(place, dtype).requires_grad_() for m, logits in unimodal.items()}
        drawn = type(plan)(*(part.to(place) for part in plan))
        out = MisalignAugment(NAMES, classes)(
            leaves, labels.to(place), unimodal_logits=own, plan=drawn
        )
        logits = torch.cat([out[m] for m in NAMES], dim=1) @ weights.to(place, dtype).t()
        criterion = MidasLoss(2).to(place)
        loss = criterion(logits, out, own)
        gradients = torch.autograd.grad(loss, [*leaves.values(), *own.values()])
        alpha = criterion.state_dict()["weak_modality.alpha"]
        return [part.detach().cpu().double() for part in (loss, *gradients, alpha)]

    pairs = zip(
        outcome(device, torch.float32), outcome(torch.device("cpu"), torch.float64), strict=True
    )
    return max(float((have - want).abs().max()) for have, want in pairs)
