"""Outcomes, intervals and missing cells of the table of trainings under MX formats, on a made table."""

import numpy as np
import pytest

from dither import laws
from dither.studies import mx_runs, tables
from dither.studies.mx_statistics import gap, paired_share, recovered, share, slopes

ARM, OTHER = "fp8_e4m3_fp8_e4m3", "fp6_e2m3_fp6_e2m3"
COLUMNS = "arm,w_format,a_format,params,tokens,total_flops,val_loss,min_val_loss,state,n_layers,d_model"
TRUTH = {"A": 1940.0, "B": 2.18e4, "E": 0.531, "alpha": 0.502, "beta": 0.557}


def write(folder, rows):
    path = folder / mx_runs.TABLE
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{arm},w,a,{n},{d},{6 * n * d},{final},{best},{state},4,256"
        for arm, n, d, final, best, state in rows
    ]
    path.write_text("\n".join([COLUMNS, *lines]) + "\n")


@pytest.fixture
def made(tmp_path, monkeypatch):
    cells = [(n, d) for n in (2e7, 1e8, 5e8) for d in (5e8, 2e9, 1e10, 2e10)]
    loss = {cell: float(laws.get("chinchilla").predict(TRUTH, N=cell[0], D=cell[1])) for cell in cells}
    rows: list[tuple] = [(mx_runs.BASELINE, *cell, value, value, "finished") for cell, value in loss.items()]

    def near(cell, more=0.0):
        return round((loss[cell] + more) / 0.005) * 0.005

    rows += [(ARM, *cell, near(cell), near(cell), "finished") for cell in cells[:5]]
    rows.append((ARM, *cells[5], near(cells[5], 0.3), near(cells[5]), "crashed"))  # it had spiked
    rows.append((ARM, *cells[6], near(cells[6], 0.08), near(cells[6], 0.08), "finished"))  # it drifted away
    rows.append((ARM, *cells[7], near(cells[7], 0.08), near(cells[7], 0.08), "crashed"))  # not at its end yet
    rows.append((ARM, *cells[8], "nan", "nan", "running"))
    rows.append((ARM, 7e8, 1e10, 0.66, "nan", "finished"))  # the baseline was not run there
    rows += [(ARM, *cells[0], near(cells[0], 0.01), near(cells[0], 0.01), "finished")]  # once more
    write(tmp_path, rows)
    monkeypatch.setenv(tables.VARIABLE, str(tmp_path))
    return cells, loss


def test_every_run_has_an_outcome_and_keeps_what_is_known_of_its_loss(made):
    cells, loss = made
    runs, twice = mx_runs.read()
    own = runs.arms(ARM)
    assert own.outcome.tolist() == [
        *["held"] * 5, "diverged", "diverged", "unknown", "unknown", "held", "held",
    ]  # fmt: skip
    assert np.allclose((own.high - own.low)[:5], 0.005)
    base = runs.arms(mx_runs.BASELINE)
    assert (base.low == base.high).all() and (base.outcome == "held").all()
    # what diverged or broke off bounds the loss from above by its best; no loss at all says nothing
    assert (own.low[5:9] == 0).all() and np.isinf(own.high[8])
    assert own.high[5] == pytest.approx(loss[cells[5]], abs=0.006)
    assert np.isinf(own.gap_low[5:7]).all() and own.gap_low[7] == -np.inf and own.gap_high[7] == np.inf
    assert np.isnan(own.gap_low[9])
    assert ((own.gap_low[:5] <= 0.0026) & (own.gap_high[:5] >= -0.0026)).all()
    assert len(twice) == 1 and len(twice[0][0]) == 2
    assert len(mx_runs.missing(runs, ARM).arm) == 3


def test_gaps_and_shares_count_what_diverged_and_no_unknown_outcome(made):
    runs, _ = mx_runs.read()
    own = runs.arms(ARM)
    found = gap(own)
    assert found.n == 10 and found.low < 0 < found.high == np.inf  # 2 diverged, 2 unknown of 10
    assert share(own).estimate == pytest.approx(2 / 9) and share(own).n == 9
    pair = paired_share(runs, [(ARM, mx_runs.BASELINE)])
    assert pair.n == 7 and pair.estimate == pytest.approx(2 / 7)


def test_slopes_are_recovered_and_missing_cells_move_them(tmp_path, monkeypatch):
    """800 cells of a recipe whose ln odds rise by 1.5 a unit of ln C: the slope is known to about 0.1."""
    noise = np.random.default_rng(0)
    rows = []
    for n in np.geomspace(2e7, 1.7e9, 28):
        for d in np.geomspace(3e8, 3e10, 28):
            n, d = float(round(n)), float(round(d))
            loss = float(laws.get("chinchilla").predict(TRUTH, N=n, D=d))
            rows.append((mx_runs.BASELINE, n, d, loss, loss, "finished"))
            up = noise.random() < 1 / (
                1 + np.exp(-1.5 * np.log(6 * n * d / 4.57e18) + 0.5 * np.log(d / n / 20))
            )
            if 6 * n * d < 3e19:
                rows.append((ARM, n, d, loss + 0.5 * up, loss, "finished"))
    write(tmp_path, rows)
    monkeypatch.setenv(tables.VARIABLE, str(tmp_path))
    runs, _ = mx_runs.read()
    found = slopes(runs, [ARM], 20)[1]
    assert found["ln C"].low < 1.5 < found["ln C"].high and found["ln C"].estimate == pytest.approx(
        1.5, abs=0.3
    )
    assert found["ln D/N"].estimate == pytest.approx(-0.5, abs=0.3)
    held = slopes(runs, [ARM], 2, 0, 0)[1]
    assert held["ln C"].estimate < found["ln C"].estimate - 0.2


def test_a_simulated_table_with_the_caveats_gives_its_exponent_back():
    assert max(recovered(seed) for seed in (1, 2)) < 0.05
