"""Figures: each is a PNG in a data URI, also for awkward series."""

import base64

import numpy as np
import pytest

from mlops.reports import figures

N = 4000
RNG = np.random.default_rng(0)
MADE_AT = np.datetime64("2018-01-01", "ns") + np.arange(N) * np.timedelta64(1, "h")
OUTCOME = RNG.standard_normal(N)
FORECAST = 0.5 * OUTCOME + RNG.standard_normal(N)


def draw(name):
    return {
        "forecast": lambda: figures.forecast_against_outcome(
            MADE_AT, OUTCOME, FORECAST, np.zeros(N), unit="log variance"
        ),
        "skill": lambda: figures.skill_by_fold(["1", "2"], {"ewma": [0.1, -0.2], "zero": [0, 0.3]}),
        "equity": lambda: figures.equity_and_drawdown(MADE_AT, OUTCOME / 100, np.zeros(N)),
        "equity with gaps": lambda: figures.equity_and_drawdown(
            MADE_AT, np.where(OUTCOME > 2, np.nan, OUTCOME / 100), np.zeros(N)
        ),
        "calibration": lambda: figures.calibration(OUTCOME, FORECAST, unit="bps"),
        "calibration of few": lambda: figures.calibration(OUTCOME[:5], FORECAST[:5], unit="bps"),
        "trials": lambda: figures.trials(["linear 0", "lstm 1"], [0.02, -0.01], winner="linear 0"),
    }[name]()


@pytest.mark.parametrize(
    "name",
    [
        "forecast",
        "skill",
        "equity",
        "equity with gaps",
        "calibration",
        "calibration of few",
        "trials",
    ],
)
def test_a_figure_is_a_png_that_opens_anywhere(name):
    head, _, body = draw(name).partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(body).startswith(b"\x89PNG")


def test_a_picture_shows_what_it_is_given():
    assert draw("calibration") != figures.calibration(OUTCOME, -FORECAST, unit="bps")
