"""effllm scaling fit, optimal, isoflop, holdout, design"""

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import numpy as np
from click.core import ParameterSource
from tqdm import tqdm

from effllm import scaling
from effllm.cli.rundir import read_json, warn, write_json
from effllm.cli.sweep import sweep
from effllm.config import tree
from effllm.scaling import laws, plots
from effllm.scaling.bootstrap import percentiles
from effllm.scaling.runs import KNOWN

LAWS = {name.lower(): getattr(laws, name) for name in laws.__all__}
OBJECTIVES = {"log-huber": scaling.LogHuber, "huber": scaling.Huber, "squares": scaling.Squares, "log-squares": scaling.LogSquares}
COSTS = {"6n": scaling.SixN(), "non-embedding": scaling.SixNonEmbedding(), "attention": scaling.WithAttention(), "experts": scaling.FineGrainedExperts()}
COLUMNS = {*KNOWN, "run"}.union(*({*law.inputs, law.target} for law in LAWS.values()))
METHODS = {"akima": scaling.akima, "parabola": scaling.parabola}


@click.group("scaling")
def scaling_command():
    """Scaling laws: fit one to runs, and decide by it what to train.

    RUNS is a CSV file with columns params, tokens, loss (and flops, unique_tokens, experts, bits, run where a law needs them), or the
    directories of finished effllm runs.

    \b
    effllm scaling fit runs.csv --bootstrap 4000                      E + A/N^α + B/D^β with intervals
    effllm scaling optimal runs.csv --budget 1e22                     how large, how long, at what loss
    effllm scaling optimal runs.csv --budget 1e22 --unique-tokens 5e10   the same when tokens must be repeated
    effllm scaling holdout runs.csv                                   how far such predictions were off
    effllm scaling design runs.csv --budget 1e18                      which runs to launch next
    """


def compose(*options: Callable) -> Callable:
    """One decorator of several options."""

    def decorate(function):
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


reading = compose(
    click.argument("source", nargs=-1, required=True, metavar="RUNS...", type=click.Path(exists=True)),
    click.option("--column", multiple=True, metavar="OURS=THEIRS", help="The file's name of a column: --column tokens=D."),
    click.option("--unit", type=click.Choice(["nats", "bits"]), help="Of the loss, per token; needed where its size does not say."),
    click.option("--drop-highest", default=0, metavar="K", help="Leave out the K runs of highest loss."),
)
fitting = compose(
    click.option("--law", default="chinchilla", show_default=True, type=click.Choice(list(LAWS)), metavar="NAME", help=f"One of {', '.join(LAWS)}."),
    click.option("--objective", default="log-huber", show_default=True, type=click.Choice(list(OBJECTIVES)), help="What is minimised; Huber's δ is 1e-3."),
    click.option("--fix", multiple=True, metavar="NAME=VALUE", help="A parameter that does not move."),
    click.option("--seed", default=0, show_default=True, help="Of the bootstrap."),
)
writing = compose(
    click.option("--json", "json_file", type=click.Path(), metavar="FILE", help="Also write what was found for a machine."),
    click.option("--plot", "plot_file", type=click.Path(), metavar="FILE", help="Where the picture goes (.png, .pdf, .svg); default scaling-<verb>.png here."),
)


def pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    """NAME=VALUE texts as a dict. Raises ValueError for one without "="."""
    wrong = [t for t in texts if "=" not in t]
    if wrong:
        raise ValueError(f"{option} {wrong[0]!r} must be NAME=VALUE")
    return dict(t.split("=", 1) for t in texts)


def number_of(text: str, option: str) -> float:
    """A number, or ValueError naming the option."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{option} {text!r} is no number") from None


def read_runs(source: Sequence[str], column: Sequence[str], unit: str | None, drop_highest: int, curves: bool = False) -> scaling.Runs:
    """Runs of one CSV file or of run directories."""
    directories = [s for s in source if Path(s).is_dir()]
    if directories and len(directories) < len(source) or not directories and len(source) > 1:
        raise ValueError("give one CSV file, or run directories, not several files")
    if directories and (column or unit):
        raise ValueError(f"{'--column' if column else '--unit'} is for a CSV file: run directories know their params, tokens, flops and loss in nats")
    columns = pairs(column, "--column")
    for ours in sorted(columns.keys() - COLUMNS):
        raise ValueError(f"--column {ours}={columns[ours]}: no law takes a column {ours!r}{tree.nearest(ours, COLUMNS)}")
    runs = scaling.read_directories(source, curves) if directories else scaling.read_csv(source[0], columns, unit)
    if not 0 <= drop_highest < runs.size:
        raise ValueError(f"--drop-highest {drop_highest} of {runs.size} runs leaves none")
    return runs.drop_highest(drop_highest)


def with_compute(law: type[scaling.Law], runs: scaling.Runs) -> scaling.Runs:
    """The runs with their FLOPs as the column x or flops, where the law takes that and the file has none."""
    lacking = {"x", "flops"} & set(law.inputs) - runs.columns.keys()
    return runs.with_column(lacking.pop(), runs.flops) if lacking else runs


def fit_runs(runs: scaling.Runs, law: str, objective: str, fix: Sequence[str]) -> scaling.Fit:
    """The fit, its warnings on stderr."""
    cls = LAWS[law]
    fixed = {n: number_of(v, f"--fix {n}") for n, v in pairs(fix, "--fix").items()}
    fitted = scaling.fit(cls, with_compute(cls, runs), loss=OBJECTIVES[objective](), fixed=fixed)
    for line in fitted.warnings:
        warn(line)
    return fitted


def draw(fitted: scaling.Fit, draws: int, seed: int, cluster: bool = False) -> scaling.Draws:
    """A bootstrap with a progress bar; what it says about identification on stderr."""
    with tqdm(total=draws * len(fitted.minima), desc="bootstrap", unit="fit", leave=False, disable=draws < 500) as bar:
        found = scaling.bootstrap(fitted, draws, seed, cluster=cluster, progress=bar.update)
    for name in found.unidentified():
        warn(f"{name} is not identified: its 95 % interval spans more than a factor of ten or reaches zero, so quote no single value")
    if found.converged < 0.99:
        warn(f"{1 - found.converged:.1%} of the draws did not converge")
    return found


def table(rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns, the first to the left."""
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    for row in rows:
        click.echo("  " + "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))))


def records(names: Sequence[str], *columns: np.ndarray) -> list[dict[str, float]]:
    """Columns as one dict a row."""
    return [dict(zip(names, map(float, row), strict=True)) for row in zip(*columns, strict=True)]


def span(interval: scaling.Interval | None) -> str:
    return "" if interval is None else f"{interval.low:.5g} … {interval.high:.5g}" + ("" if interval.identified else "  not identified")


def finish(figure: Any, plot_file: str | None, verb: str, json_file: str | None, result: dict[str, Any]) -> None:
    """Write the picture, then the JSON."""
    click.echo(plots.save(figure, plot_file or f"scaling-{verb}.png"))
    if json_file:
        write_json(Path(json_file), result)


@scaling_command.command("fit")
@reading
@fitting
@click.option("--bootstrap", default=1000, show_default=True, metavar="B", help="Draws for the intervals; 0 for none.")
@click.option("--cluster", is_flag=True, help="Resample all rows of a run together (column run).")
@writing
@click.pass_context
def fit_command(context, source, column, unit, drop_highest, law, objective, fix, seed, bootstrap, cluster, json_file, plot_file):
    """Fit a law: parameters with 95 % intervals, whether the fit converged, and how many starts agree."""
    fitted = fit_runs(read_runs(source, column, unit, drop_highest), law, objective, fix)
    draws = draw(fitted, bootstrap, seed, cluster) if bootstrap and fitted.converged else None
    intervals = draws.intervals() if draws else {}
    ci = {n: [i.low, i.high] for n, i in intervals.items()}
    finish(plots.fit_figure(fitted), plot_file, "fit", json_file, fitted.to_json() | {"ci": ci, "unidentified": draws.unidentified() if draws else []})
    click.echo(f"{fitted.form.label} on {fitted.runs.size} runs{'' if fitted.converged else ': NOT CONVERGED'}")
    table([(n, f"{v:.6g}", span(intervals.get(n))) for n, v in fitted.params.items()])
    click.echo(f"objective {fitted.objective:.7g}; {fitted.n_starts_at_best} of {fitted.n_starts} starts reach it; condition {fitted.condition:.1e}; "
               f"residuals {fitted.relative_rms:.2%} rms")  # fmt: skip
    if not fitted.converged:
        context.exit(2)


def saved_law(file: str) -> scaling.Law:
    """The law in a fit's JSON. Raises ValueError for another file, a fit that did not converge, and options that only a new fit heeds."""
    saved = read_json(Path(file))
    law, params = LAWS.get(saved.get("law")), saved.get("params")
    if law is None or not isinstance(params, dict) or set(params) != {f.name for f in fields(law)}:
        raise ValueError(f"{file} holds no fit: make one with effllm scaling fit --json")
    if not saved.get("converged") or None in params.values():
        raise ValueError(f"the fit in {file} did not converge, so nothing can be decided by it: look at effllm scaling fit, or fix parameters")
    context = click.get_current_context()
    heeded = {"law": saved["law"], "bootstrap": 0}
    for name in ("column", "unit", "drop_highest", "law", "objective", "fix", "seed", "bootstrap"):
        given = context.get_parameter_source(name) == ParameterSource.COMMANDLINE and context.params[name] != heeded.get(name)
        if given:
            raise ValueError(f"--{name.replace('_', '-')} is for a new fit, {file} holds one of law {saved['law']}: give the runs, or leave it out")
    return law(**params)


def law_of(source, column, unit, drop_highest, law, objective, fix, seed, bootstrap, unique_tokens):
    """(law with parameters (B, 1), point law, largest FLOPs or None) of runs or of a fit's JSON."""
    if len(source) == 1 and source[0].endswith(".json"):
        point, drawn, largest = saved_law(source[0]), None, None
    else:
        runs = read_runs(source, column, unit, drop_highest)
        fitted = fit_runs(runs, law, objective, fix)
        if not fitted.converged:
            raise ValueError(f"the fit of {law} did not converge, so nothing can be decided by it: look at effllm scaling fit, or fix parameters")
        point, drawn, largest = fitted.law, draw(fitted, bootstrap, seed).law(1) if bootstrap else None, float(runs.flops.max())
    if unique_tokens is not None and isinstance(point, laws.Chinchilla):
        warn("chinchilla knows no repeated tokens: taking Muennighoff et al.'s R_D* = 15.4, R_N* = 5.3, which are not identified even by their own runs")
        point, drawn = laws.DataConstrained.extend(point), drawn and laws.DataConstrained.extend(drawn)
    return point, drawn, largest


@scaling_command.command("optimal")
@reading
@fitting
@click.option("--bootstrap", default=200, show_default=True, metavar="B", help="Draws for the intervals; 0 for none.")
@click.option("--budget", type=float, metavar="FLOPS", help="For training, and inference where --inference-tokens is given.")
@click.option("--unique-tokens", type=float, help="How many different tokens there are; more are repetitions.")
@click.option("--inference-tokens", type=float, default=0.0, help="Tokens that the model will process after training.")
@click.option("--loss", type=float, help="Instead of a budget: reach this loss at least cost.")
@click.option("--tokens-per-param", type=float, metavar="M", help="Instead of the optimum: the model over-trained to this D/N.")
@click.option("--granularity", metavar="G,G,...", help="Granularities of experts to choose from (law finegrained).")
@click.option("--experts", metavar="E,E,...", help="Numbers of experts to choose from (law routed, which needs --total-params instead of a budget).")
@click.option("--total-params", type=float, metavar="N", help="Parameters that memory holds, all experts counted (law routed).")
@click.option("--bits", metavar="P,P,...", help="Precisions to choose from (law precision).")
@click.option("--flops-per-token", "cost", type=click.Choice(list(COSTS)), help="What a training token costs; default experts for law finegrained, else 6n.")
@click.option("--device", help='Of the machine, such as "NVIDIA H100 80GB HBM3": time and price are then said, and --hours can be the budget.')
@click.option("--devices", default=1, show_default=True)
@click.option("--utilisation", default=0.4, show_default=True, help="Model FLOPs utilisation.")
@click.option("--price", default=0.0, help="Per device and hour.")
@click.option("--watts", default=0.0, help="Per device.")
@click.option("--hours", type=float, help="Time limit instead of, or besides, --budget.")
@click.option("--money", type=float, help="Limit of the price.")
@writing
def optimal_command(
    source, column, unit, drop_highest, law, objective, fix, seed, bootstrap, budget, unique_tokens, inference_tokens, loss, tokens_per_param,
    granularity, experts, total_params, bits,
    cost, device, devices, utilisation, price, watts, hours, money, json_file, plot_file,
):  # fmt: skip
    """What to train: parameters, tokens and loss with 95 % intervals. RUNS may also be the JSON of a fit (no intervals then)."""
    machine = scaling.Machine.of(device, devices, utilisation=utilisation, price=price, watts=watts) if device else None
    if hours is not None or money is not None:
        if machine is None:
            raise ValueError("--hours and --money need a --device")
        limit = machine.budget(seconds=None if hours is None else 3600 * hours, money=money)
        budget = limit if budget is None else min(budget, limit)
    if law == "routed":
        if source[0].endswith(".json"):
            raise ValueError("law routed plans from runs, not from the JSON of a fit")
        experts_command(source, column, unit, drop_highest, objective, fix, seed, bootstrap, experts, total_params, json_file, plot_file)
        return
    idle = [n for n, given in (("--experts", experts), ("--total-params", total_params is not None)) if given]
    if loss is not None:
        others = (
            ("--budget, --hours or --money", budget is not None), ("--tokens-per-param", tokens_per_param is not None), ("--granularity", granularity), ("--bits", bits),
        )  # fmt: skip
        idle += [n for n, given in others if given]
    if idle:
        raise ValueError(f"{idle[0]} has no effect {'beside --loss' if loss is not None else f'for law {law}'}: leave it out")
    if budget is None and loss is None:
        raise ValueError("what limits the run? give --budget FLOPS, --hours with a --device, or --loss")
    point, drawn, largest = law_of(source, column, unit, drop_highest, law, objective, fix, seed, bootstrap, unique_tokens)
    choices = {n: np.array([number_of(v, f"--{n}") for v in text.split(",")]) for n, text in (("granularity", granularity), ("bits", bits)) if text}

    price_of = COSTS[cost] if cost else point.cost

    def plan_of(law):
        if loss is not None:
            return scaling.cheapest(law, loss, inference_tokens=inference_tokens, cost=price_of, unique_tokens=unique_tokens)
        if tokens_per_param is not None:
            return scaling.over_trained(law, budget, tokens_per_param, price_of, unique_tokens, inference_tokens)
        return scaling.optimal(law, budget, cost=price_of, unique_tokens=unique_tokens, inference_tokens=inference_tokens, choices=choices)

    plan, drawn_plan = plan_of(point), None if drawn is None else plan_of(drawn)
    spent = float(plan.flops[0] + price_of.chosen(plan.more).inference(plan.params)[0] * inference_tokens)
    warning = None if largest is None else scaling.far(spent, largest)
    if warning:
        warn(warning)
    quantities = plan.columns() | (machine.bill(plan) if machine else {})
    spread = {} if drawn_plan is None else drawn_plan.columns() | (machine.bill(drawn_plan) if machine else {})
    ci = {n: list(percentiles(v, 0.95)) for n, v in spread.items()}
    lost = 0.0 if drawn_plan is None else float(np.isnan(drawn_plan.loss).mean())
    if lost:
        warn(f"{lost:.1%} of the draws have no such plan: they count as beyond both ends of the intervals")
    best = {n: float(v[0]) for n, v in quantities.items()}
    result = {"law": type(point).__name__.lower(), "params": point.values(), "budget": spent, "plan": best, "ci": ci, "warning": warning}
    shown = (drawn, drawn_plan) if drawn is not None else (point, plan)
    finish(plots.plan_figure(*shown, spent, price_of, unique_tokens, inference_tokens), plot_file, "optimal", json_file, result)
    table([("", "best", "95 % interval"), *((n, f"{v:.5g}", f"{ci[n][0]:.4g} … {ci[n][1]:.4g}" if n in ci else "") for n, v in result["plan"].items())])


def experts_command(source, column, unit, drop_highest, objective, fix, seed, bootstrap, experts, total_params, json_file, plot_file):
    """The plan of a routed model."""
    if not experts or total_params is None:
        raise ValueError("law routed needs --experts E,E,... to choose from and --total-params N that memory holds")
    runs = read_runs(source, column, unit, drop_highest)
    fitted = fit_runs(runs, "routed", objective, fix)
    if not fitted.converged:
        raise ValueError("the fit of routed did not converge, so nothing can be decided by it: fix parameters")
    options = np.array([number_of(e, "--experts") for e in experts.split(",")])
    best = {n: float(v[0]) for n, v in scaling.with_experts(fitted.law, total_params, options).columns().items()}
    spread = scaling.with_experts(draw(fitted, bootstrap, seed).law(1), total_params, options).columns() if bootstrap else {}
    ci = {n: list(percentiles(v, 0.95)) for n, v in spread.items()}
    finish(plots.fit_figure(fitted), plot_file, "optimal", json_file, {"law": "routed", "params": fitted.params, "plan": best, "ci": ci})
    table([("", "best", "95 % interval"), *((n, f"{v:.5g}", f"{ci[n][0]:.4g} … {ci[n][1]:.4g}" if n in ci else "") for n, v in best.items())])


@scaling_command.command("isoflop")
@reading
@click.option("--method", default="akima", show_default=True, type=click.Choice(list(METHODS)), help="How the minimum of a curve is found.")
@click.option("--apart", default=1.1, show_default=True, help="FLOPs that differ by less than this factor are one budget.")
@click.option("--budgets", metavar="C,C,...", help="The budgets, where they are known: runs within that factor of each belong to it.")
@click.option("--noise", default=0.0, help="Standard deviation of ln loss between seeds: weighs the budgets.")
@click.option("--seed", default=0, show_default=True)
@writing
def isoflop_command(source, column, unit, drop_highest, method, apart, budgets, noise, seed, json_file, plot_file):
    """Approach 2: the minimum of each isoFLOP curve, and how it moves with compute."""
    runs = read_runs(source, column, unit, drop_highest)
    known = [number_of(c, "--budgets") for c in budgets.split(",")] if budgets else None
    found = scaling.isoflop(runs, METHODS[method], noise=noise, seed=seed, apart=apart, budgets=known)
    for line in found.warnings:
        warn(line)
    result = {
        "method": method, "exponent": found.params.exponent, "ci": {"exponent": [found.params.low, found.params.high]}, "coefficient": found.params.coefficient,
        "token_exponent": found.tokens.exponent, "token_coefficient": found.tokens.coefficient,
        "optima": records(("flops", "params", "tokens", "loss"), found.compute_c, found.params_c, found.tokens_c, found.loss_c),
        "left_out": [{"flops": c, "why": why} for c, why in found.left_out], "warnings": list(found.warnings),
    }  # fmt: skip
    finish(plots.isoflop_figure(runs, found, apart, known), plot_file, "isoflop", json_file, result)
    table([("FLOPs", "N*", "D*", "loss"), *((f"{o['flops']:.3g}", f"{o['params']:.4g}", f"{o['tokens']:.4g}", f"{o['loss']:.4f}") for o in result["optima"])])
    n, d = found.params, found.tokens
    click.echo(f"N* = {n.coefficient:.4g}·C^{n.exponent:.4f} ({n.low:.3f} … {n.high:.3f}), D* ∝ C^{d.exponent:.4f}")


@scaling_command.command("holdout")
@reading
@fitting
@click.option("--largest", default=5, show_default=True, help="How many of the largest runs are left out and predicted.")
@click.option("--by", default="flops", show_default=True, help="Largest by which column.")
@click.option("--bootstrap", default=200, show_default=True, metavar="B", help="Draws for the intervals; 0 for none.")
@writing
def holdout_command(source, column, unit, drop_highest, law, objective, fix, seed, largest, by, bootstrap, json_file, plot_file):
    """What accuracy to expect: fit without the largest runs, predict them, compare."""
    if fix:
        raise ValueError("holdout fits every parameter anew: leave out --fix")
    runs = with_compute(LAWS[law], read_runs(source, column, unit, drop_highest))
    found = scaling.holdout(LAWS[law], runs, largest, by=by, loss=OBJECTIVES[objective](), draws=bootstrap, seed=seed)
    for line in found.fit.warnings:
        warn(line)
    target = found.fit.form.target
    rows = records(("flops", "measured", "predicted", "error"), found.runs.flops, found.runs[target], found.predicted_n, found.error_n)
    result = found.fit.to_json() | {"held_out": rows, "mean_error": found.mean_error, "bias": found.bias, "reach": found.reach}
    finish(plots.holdout_figure(found), plot_file, "holdout", json_file, result)
    shown = ((f"{r['flops']:.3g}", f"{r['measured']:.4f}", f"{r['predicted']:.4f}", f"{r['error']:+.2%}") for r in rows)
    table([("FLOPs", "measured", "predicted", "error"), *shown])
    click.echo(f"mean error {found.mean_error:.2%}, bias {found.bias:+.2%}, at up to {found.reach:.1f} times the largest fitted run")


@scaling_command.command("design")
@reading
@fitting
@click.option("--budget", type=float, required=True, metavar="FLOPS", help="Of all new runs together.")
@click.option("--runs", "count", default=8, show_default=True, help="At most so many.")
@click.option("--target", metavar="N,D", help="Make the prediction of this run certain, instead of the parameters (D-optimal).")
@click.option("--config", type=click.Path(exists=True), help="An effllm config: also write the sweep of commands that trains the runs.")
@click.option("--sweep", "sweep_file", type=click.Path(), default="sweep.sh", show_default=True, help="Where that goes.")
@writing
def design_command(source, column, unit, drop_highest, law, objective, fix, seed, budget, count, target, config, sweep_file, json_file, plot_file):
    """Which runs to launch next: sizes and tokens that a FLOP budget buys most certainty with. It trusts the law at all sizes."""
    runs = read_runs(source, column, unit, drop_highest)
    fitted = fit_runs(runs, law, objective, fix)
    if not fitted.converged:
        raise ValueError(f"the fit of {law} did not converge, so it cannot say which runs would help")
    if not set(fitted.form.inputs) <= {"params", "tokens"}:
        more = ", ".join(n for n in fitted.form.inputs if n not in ("params", "tokens"))
        raise ValueError(f"design chooses params and tokens; {law} also takes {more}: use effllm.scaling.design with candidates of your own")
    ratio = runs["tokens"] / runs["params"]
    sizes = np.geomspace(runs["params"].min(), max(4 * runs["params"].max(), runs["params"].min() * 16), 13)
    found = scaling.candidates(budget, sizes, np.geomspace(ratio.min(), ratio.max(), 7))
    aim = None
    if target:
        n, _, d = target.partition(",")
        aim = scaling.Runs({"params": np.array([number_of(n, "--target")]), "tokens": np.array([number_of(d, "--target")])})
    chosen = scaling.design(fitted, budget, found, count, aim)
    names = ("params", "tokens", "flops", "loss")
    rows = records(names, *(chosen.runs[n] for n in names))
    result = {
        "runs": rows, "flops": float(chosen.runs.flops.sum()), "gain": chosen.gain, "standard_errors_shrink_to": chosen.shrink,
        "prediction_shrinks_to": chosen.prediction,
    }  # fmt: skip
    finish(plots.design_figure(runs, chosen), plot_file, "design", json_file, result)
    table([("params", "tokens", "FLOPs", "loss"), *((f"{r['params']:.4g}", f"{r['tokens']:.4g}", f"{r['flops']:.3g}", f"{r['loss']:.3f}") for r in rows)])
    click.echo(f"{result['flops']:.3g} of {budget:.3g} FLOPs; standard errors shrink to " + ", ".join(f"{n} {v:.0%}" for n, v in chosen.shrink.items()))
    if config:
        click.echo(sweep(config, rows, Path(sweep_file)))
