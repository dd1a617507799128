"""Figure 1: the steady-state loss against K, and where the 1/K law ends."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from late_phase.nqp.config import Figure1Settings
from late_phase.nqp.cost import check_settings, needed_bytes
from late_phase.nqp.measure import Measurement, Plan, measure, plan
from late_phase.nqp.settings import Settings
from late_phase.support.errors import UserError
from late_phase.support.files import atomic
from late_phase.support.memory import check_memory

PROCESS = 350 * 2**20
"""Bytes that each process takes for Python and the modules."""


@dataclass(frozen=True)
class Figure1:
    """All measurements.

    Attributes:
        stated: model -> measurements in the stated regime.
        others: measurements of late-phase learning in each other regime.
    """

    stated: dict[str, list[Measurement]]
    others: list[list[Measurement]]

    def slope(self) -> tuple[float, float]:
        """Returns d log L / d log K of late-phase learning and its standard error, by weighted least squares."""
        late = self.stated["late_phase"]
        K, loss, error = (np.array(values) for values in zip(*map(_point, late), strict=True))
        weights = (loss / error) ** 2
        x = np.log(K) - np.average(np.log(K), weights=weights)
        scale = (weights * x * x).sum()
        return float((weights * x * np.log(loss)).sum() / scale), float(scale**-0.5)

    def ratios(self, model: str) -> list[dict[str, float]]:
        """Returns the late-phase loss divided by an ensemble's, with its standard error, at each K that both have."""
        late = {m.settings.K: m for m in self.stated["late_phase"]}
        rows = []
        for m in self.stated[model]:
            ours = late[m.settings.K].loss
            ratio = ours.mean / m.loss.mean
            error = ratio * float(np.hypot(ours.standard_error / ours.mean, m.loss.standard_error / m.loss.mean))
            rows.append({"K": m.settings.K, "ratio": ratio, "standard_error": error})
        return rows

    def record(self) -> dict[str, Any]:
        slope, error = self.slope()
        return {
            "slope": slope,
            "slope_standard_error": error,
            "late_phase_over_parameterised": self.ratios("parameterised"),
            "late_phase_over_full": self.ratios("full"),
            "stated": {model: [m.record() for m in measurements] for model, measurements in self.stated.items()},
            "others": [[m.record() for m in measurements] for measurements in self.others],
        }


def closed_form_seconds(base: Settings, figure: Figure1Settings) -> float:
    """Returns the seconds of the closed form for all points, which is computed before any step."""
    points = len(figure.K) * (1 + len(figure.others)) + 2 * len(figure.K_ensembles)
    return points * check_settings(replace(base, model="late_phase", K=1))


def plan_figure1(base: Settings, figure: Figure1Settings) -> list[Plan]:
    """Plans all measurements: late-phase learning, then the ensembles, then late-phase learning in the other regimes.

    Raises:
        UserError: a setting of the figure or of a measurement is impossible.
    """
    if base.d != 1:
        raise UserError(f"d={base.d} is not for figure1, whose φ is a scalar: choose d=1, or task=measure.")
    if not 1 <= figure.workers <= 1024:
        raise UserError(f"figure1.workers={figure.workers} is out of range: choose from 1 to 1024 processes.")
    for key, values in (("K", figure.K), ("K_ensembles", figure.K_ensembles)):
        if 1 not in values or len(values) < 2 or len(set(values)) < len(values):
            raise UserError(f"figure1.{key}={values} is not a curve: choose K = 1 and at least one more K, each of them once.")
    if not set(figure.K_ensembles) <= set(figure.K):
        raise UserError(f"figure1.K_ensembles={figure.K_ensembles} has values that figure1.K={figure.K} lacks: add them there.")
    settings = [(f"figure1.K={figure.K}", replace(base, model="late_phase", K=K)) for K in sorted(figure.K)]
    for model in ("parameterised", "full"):
        key = f"figure1.K_ensembles={figure.K_ensembles}"
        settings += [(key, replace(base, model=model, K=K)) for K in sorted(figure.K_ensembles)]
    for number, other in enumerate(figure.others):
        regime = replace(base, model="late_phase", eta=other.eta, B=other.B, target_norm=other.target_norm)
        settings += [(f"figure1.others[{number}]", replace(regime, K=K)) for K in sorted(figure.K)]
    plans = []
    for key, s in settings:
        try:
            plans.append(plan(s))
        except UserError as error:
            raise UserError(f"{key}: {error}") from error
    processes = min(figure.workers, len(plans))
    largest = max(needed_bytes(p.settings, (p.burn_in + p.window) // p.every) for p in plans)
    check_memory(f"figure1.workers={figure.workers}", processes * (largest + PROCESS), "choose fewer.")
    return plans


def measure_figure1(plans: Sequence[Plan], figure: Figure1Settings) -> Iterator[Measurement | Figure1]:
    """Yields the measurements of :func:`plan_figure1` as they finish, then the whole figure. Uses ``workers`` processes.

    Raises:
        UserError: runs diverge.
    """
    longest_first = sorted(plans, key=lambda p: p.seconds, reverse=True)
    done: dict[str, Measurement] = {}
    # Spawned, as forking is unsafe with threads, such as torch's.
    with ProcessPoolExecutor(min(figure.workers, len(plans)), multiprocessing.get_context("spawn")) as pool:
        for measurement in pool.map(measure, longest_first):
            done[repr(measurement.settings)] = measurement
            yield measurement
    ordered = [done[repr(p.settings)] for p in plans]
    late, ensembles = len(figure.K), len(figure.K_ensembles)
    stated = {
        "late_phase": ordered[:late],
        "parameterised": ordered[late : late + ensembles],
        "full": ordered[late + ensembles : late + 2 * ensembles],
    }
    rest = ordered[late + 2 * ensembles :]
    yield Figure1(stated, [rest[i : i + late] for i in range(0, len(rest), late)])


STYLES = {
    "late_phase": ("late-phase weights", "C0", "o"),
    "parameterised": ("full ensemble of K models w = θφ", "C1", "s"),
    "full": ("full ensemble of K models w", "C2", "D"),
}


def plot_figure1(figure1: Figure1, paths: Sequence[Path]) -> None:
    """Draws the two panels and the caption into files of any format."""
    figure = Figure(figsize=(10.5, 5.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _loss_panel(left, figure1)
    _end_of_law_panel(right, figure1)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlim(0.87, 1.15 * max(m.settings.K for m in figure1.stated["late_phase"]))
        axes.xaxis.set_major_locator(FixedLocator([m.settings.K for m in figure1.stated["full"]]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.set_xlabel("ensemble size K")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(caption(figure1), x=0.012, ha="left", fontsize=8.5, linespacing=1.5)
    with rc_context({"svg.hashsalt": "figure1"}):  # equal figures make equal files
        for path in paths:
            with atomic(path) as partial:
                metadata = {"Date": None} if path.suffix == ".svg" else None
                figure.savefig(partial, format=path.suffix[1:], dpi=160, metadata=metadata)


def caption(figure1: Figure1) -> str:
    """Returns the text below the figure: what it shows and in which regime."""
    s = figure1.stated["late_phase"][0].settings
    slope, error = figure1.slope()
    return (
        f"Noisy quadratic problem with n = {s.n}, $H_{{ii}} = 1/i$, $\\Sigma = H^{{-1}}$, $T_0 = 0$, scalar φ, gradient descent. "
        f"Stated regime: η = {s.eta:g}, B = {s.B}, ‖w*‖ = {s.target_norm:g}, φ₀ = {s.phi0:g}; ‖w̄ − w*‖ = 1 at the start.\n"
        f"Points: mean of {figure1.stated['full'][0].loss.runs} runs ± 2 standard errors. "
        "Lines: closed forms, Eq. 37 for models w, and the linear regime with a slowly drifting φ for the others.\n"
        f"(a) Late-phase loss falls as $K^{{{slope:.3f} \\pm {error:.3f}}}$, on par with the ensemble of models w = θφ. "
        "Both are above models w at equal η, as θφ also moves through φ.\n"
        "(b) The law 1/K is a flat line. It ends where η/B is large: "
        "noise moves φ to a value that depends on K, and the members' spread gives w̄ a bias that doesn't.\n"
        "      It also ends where ‖w*‖ is small: "
        "the start is far from balance, and the smaller K is, the faster φ drifts to balance and the loss falls."
    )


def _loss_panel(axes: Any, figure1: Figure1) -> None:
    for model, measurements in figure1.stated.items():
        label, color, marker = STYLES[model]
        K, loss, error = (np.array(values) for values in zip(*map(_point, measurements), strict=True))
        axes.plot(K, [m.theory for m in measurements], color=color, linewidth=1.2, alpha=0.8)
        hollow = "white" if model == "parameterised" else color
        size, order = (8, 3) if model == "parameterised" else (5, 4)  # the late-phase points lie within its squares
        axes.errorbar(
            K, loss, 2 * error, fmt=marker, color=color, mfc=hollow, ms=size, capsize=2.5, lw=1.2, label=label, zorder=order
        )
    axes.set_yscale("log")
    axes.set_ylabel("loss of the mean model after convergence")
    axes.set_title("(a) steady-state loss", loc="left", fontsize=11)
    axes.legend(frameon=False)


def _end_of_law_panel(axes: Any, figure1: Figure1) -> None:
    colors = ["C0", "C3", "C4", "C5", "C6"]
    curves = [figure1.stated["late_phase"], *figure1.others]
    for number, measurements in enumerate(curves):
        K, loss, error = (np.array(values) for values in zip(*map(_point, measurements), strict=True))
        theory = np.array([m.theory for m in measurements])
        s, color = measurements[0].settings, colors[number % len(colors)]
        label = f"η = {s.eta:g}, B = {s.B}, ‖w*‖ = {s.target_norm:g}" + (" (stated regime)" if number == 0 else "")
        relative = np.hypot(error / loss, np.where(K == 1, 0, error[0] / loss[0])) * (K > 1)
        axes.plot(K, K * theory / theory[0], color=color, linewidth=1.2, alpha=0.8)
        values = K * loss / loss[0]
        axes.errorbar(K, values, 2 * relative * values, fmt="o", color=color, ms=5, capsize=2.5, lw=1.2, label=label)
    all_K = np.geomspace(1, max(m.settings.K for m in curves[0]), 100)
    axes.plot(
        all_K, (np.sqrt(all_K) + 1 / np.sqrt(all_K)) / 2, color="0.4", ls="--", lw=1, zorder=1, label="limit t → ∞ for small η"
    )
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(FixedLocator([1, 2, 3, 4, 5, 6]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_ylabel("K × late-phase loss, relative to K = 1")
    axes.set_title("(b) where the 1/K law ends", loc="left", fontsize=11)
    axes.legend(frameon=False)


def _point(m: Measurement) -> tuple[int, float, float]:
    return m.settings.K, m.loss.mean, m.loss.standard_error
