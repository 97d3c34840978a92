"""Networks on the same images: what is returned, written, logged and printed."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import ltm
from ltm.views.analysis import cka, depth
from ltm_platform import api
from ltm_platform.inference.analysis import analyse
from ltm_platform.inference.analysis_files import PAGE, PAIRS, TOKENS
from ltm_platform.inference.predict import read_images, to_input
from ltm_platform.inference.trained_network import load_network
from ltm_platform.job import JobSpec
from ltm_platform.storage.manifest import JOB_FILE
from ltm_platform.tracking import find_run, tracked_run
from ltm_platform.tracking.store import connect

if TYPE_CHECKING:
    from pathlib import Path

    from ..conftest import MakeCheckpoint, Run

DEEP = 'model.plan={"blocks.1": 40, "blocks.3": 12}'


@pytest.fixture(scope="module")
def checkpoints(make_checkpoint: MakeCheckpoint) -> dict[str, Path]:
    plain = ("model.method=none", "model.compression_ratio=null")
    own = {
        method: (f"model.method={method}", "model.compression_ratio=null", DEEP)
        for method in ("topk", "evit", "tome")
    }
    return {
        method: make_checkpoint(*overrides) for method, overrides in {**own, "none": plain}.items()
    }


def test_networks_are_shown_the_same_images_and_compared(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    named = {str(path): method for method, path in checkpoints.items()}
    found = api.analyse([*named, next(iter(named))], images=20, out=tmp_path / "new" / "folder")
    assert [named[one.name] for one in found.analysis.networks] == [*named.values()]
    assert found.analysis.images == tuple(range(20))
    assert found.runs == ()
    topk, evit, tome, plain = found.analysis.networks
    assert topk.tokens
    assert topk.tokens.depth.shape == (20, 8, 8)
    assert topk.mean_depth() == pytest.approx((64 + 2 * 40 + 12 * (topk.places - 3)) / 64)
    assert topk.shares() == pytest.approx({"kept": 12 / 64, "merged": 0, "dropped": 52 / 64})
    for one in (evit, tome):
        assert one.shares()
        assert one.shares()["dropped"] == 0
    assert plain.tokens is plain.shares() is plain.mean_depth() is None
    likenesses = {(named[one.run], named[one.other]): one for one in found.analysis.likenesses}
    assert len(likenesses) == 6
    assert likenesses["topk", "evit"].iou is not None
    alike = likenesses["topk", "none"]
    assert (alike.iou, alike.nmi) == (None, None)
    assert alike.cka == pytest.approx(cka(topk.features, plain.features))

    page, tokens, pairs = found.files
    assert [path.name for path in found.files] == [PAGE, TOKENS, PAIRS]
    with Image.open(page) as picture:
        assert np.ptp(np.array(picture.convert("L"))) > 100
    table = pq.read_table(tokens)
    assert len(table) == 3 * 20 * 64
    rows = table.to_pandas()
    rows = rows[rows["method"] == "tome"]
    mean = rows.groupby(["row", "column"])["depth"].mean().to_numpy().reshape(8, 8)
    assert tome.tokens
    np.testing.assert_allclose(mean, tome.tokens.depth.mean(0), rtol=1e-5)
    assert {*rows["fate"]} <= {"kept", "merged"}
    assert rows["slot"].between(0, 11).all()
    assert [row["cka"] for row in pq.read_table(pairs).to_pylist()] == [
        one.cka for one in found.analysis.likenesses
    ]


def test_what_is_found_is_what_the_library_finds(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """Pictures of any kind, one of which is damaged, and more of them than a batch has."""
    network = load_network(checkpoints["tome"])
    files = []
    for number in range(20):
        path = tmp_path / f"{number}.png"
        Image.effect_noise((40 + number, 50), 80).save(path)
        files.append(path)
    images = to_input(read_images([str(path) for path in files]), network.pixels)
    files[7].write_bytes(b"damaged")

    class Source:
        classes, labels = ("a",), np.zeros(20, int)

        def __len__(self) -> int:
            return len(files)

        def read(self, indices: list[int]) -> list[tuple[bytes, int]]:
            return [(files[i].read_bytes(), 0) for i in indices]

        def locate(self, index: int) -> str:
            return str(index)

    found = analyse({"one": network}, Source(), 99)
    assert found.images == tuple(i for i in range(20) if i != 7)
    (one,) = found.networks
    whole = images[[*found.images]]
    assert one.tokens
    expected = depth(ltm.merges(network.model, whole), network.model.site_names())
    torch.testing.assert_close(one.tokens.depth, expected)
    with torch.no_grad():
        logits = network.model.get_classifier()(one.features)
        torch.testing.assert_close(logits, network.model(whole), atol=1e-4, rtol=1e-4)


@pytest.fixture
def runs(checkpoints: dict[str, Path], store: str, tmp_path: Path) -> list[str]:
    """Checkpoints in the folders of two recorded runs."""
    copies = []
    for method in ("topk", "tome"):
        folder = tmp_path / f"{method}-1"
        copy = shutil.copytree(checkpoints[method], folder / "checkpoint")
        job = JobSpec.load(copy / JOB_FILE, [f"tracking.uri={store}"])
        with tracked_run(job, folder.name, folder):
            pass
        copies.append(str(copy))
    return copies


def test_it_is_logged_to_the_runs_and_printed(
    runs: list[str], store: str, call_here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    found = api.analyse(runs, images=8, tracking_uri=store)
    assert found.files == ()
    assert found.runs == ("topk-1", "tome-1")
    client = connect(store)
    for name in found.runs:
        items = client.list_artifacts(find_run(store, name).run_id, found.artifacts)
        assert {item.path for item in items} == {f"analysis/{x}" for x in (PAGE, TOKENS, PAIRS)}
    asked = (*runs, "--images", "8", "--data", "digits", "--tracking-uri", store)
    answer = call_here("analyse", *asked)
    assert answer.code == 0, answer.err
    assert "8 images of digits" in answer.out
    assert "logged to" not in answer.out
    values = json.loads(call_here("analyse", *asked, "--json").out)
    assert [one["method"] for one in values["networks"]] == ["topk", "tome"]
    assert values["likenesses"][0]["cka"] == pytest.approx(found.analysis.likenesses[0].cka)
    assert list((tmp_path / "work").iterdir()) == []


def test_a_mistake_is_one_sentence(
    checkpoints: dict[str, Path],
    make_checkpoint: MakeCheckpoint,
    call_here: Run,
    tmp_path: Path,
    store: str,
) -> None:
    other = str(make_checkpoint("data.val_fraction=0.3"))
    one = str(checkpoints["tome"])
    for args, says in (
        ([one, other], "data.val_fraction is 0.2 and 0.3"),
        (["run-7", "--tracking-uri", store], "there is no run 'run-7'"),
        ([one, "--images", "3"], "x>=4"),
        ([one, "--ratio", "1.5"], "(0, 1]"),
        ([one, "--ema"], "no moving average"),
        ([one, "--data", str(tmp_path / "none")], "data.path"),
        ([], "RUN|CHECKPOINT"),
    ):
        answer = call_here("analyse", *args)
        assert (answer.code, answer.out) == (2, "")
        (line,) = answer.err.splitlines()
        assert says in line
    with pytest.raises(api.UserError, match="must be 4 or more"):
        api.analyse([one], images=2)
    with pytest.raises(api.UserError, match="name a run"):
        api.analyse([])
