from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from index import accelerate, approximate, exact
from index.accelerate import brute_force, devices, training
from index.approximate import ApproximateIndex
from index.errors import UnknownNameError
from index.exact import as_float32
from index.hits import TIE_TOLERANCE, Hits, rank_keys, recall
from index.recipe import Recipe

CPU = torch.device("cpu")
SAMPLE = np.arange(6000)


@pytest.fixture(scope="module", autouse=True)
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So little memory that everything comes in many blocks."""
    monkeypatch.setattr(devices, "CPU_BLOCK", 1 << 16)
    monkeypatch.setattr(devices, "MOST_ROWS", 1024)


def test_the_package_does_not_import_torch() -> None:
    code = "import sys, index.build, index.accelerate; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_device() -> None:
    assert accelerate.device("cpu") == CPU
    assert accelerate.device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:99", "meta", "abacus"):
        with pytest.raises(UnknownNameError, match=rf"device '{name}' is not on this machine.*cpu") as caught:
            accelerate.device(name)
        assert "\n" not in str(caught.value)


# k-means


def objective(rows: np.ndarray, centroids: np.ndarray, metric: str) -> float:
    """The mean inner product with the best centroid, or less the mean squared distance: larger is better."""
    scores = rows @ centroids.T
    if metric == "inner":
        return float(scores.max(1).mean())
    return -float(((rows**2).sum(1)[:, None] - 2 * scores + (centroids**2).sum(1)).min(1).mean())


@pytest.mark.parametrize(("metric", "k"), [("inner", 150), ("inner", 20), ("l2", 64)])
def test_kmeans_is_as_good_as_that_of_faiss(structured: np.ndarray, metric: str, k: int) -> None:
    rows = as_float32(structured)
    ours = accelerate.kmeans(rows, k, rounds=10, seed=3, device=CPU, metric=metric)
    theirs = faiss.Kmeans(
        rows.shape[1], k, niter=10, seed=3, spherical=metric == "inner", min_points_per_centroid=1,
        max_points_per_centroid=10**6,
    )  # fmt: skip
    theirs.train(rows)
    assert ours.shape == (k, rows.shape[1])
    assert ours.dtype == np.float32
    if metric == "inner":
        assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
    scale = abs(objective(rows, theirs.centroids, metric))
    assert objective(rows, ours, metric) >= objective(rows, theirs.centroids, metric) - 0.01 * scale


def test_one_round_of_kmeans_is_the_means_of_the_nearest_rows(structured: np.ndarray) -> None:
    rows = as_float32(structured[:500])
    first = rows[np.random.default_rng(5).permutation(500)[:8]]
    nearest = ((rows[:, None] - first) ** 2).sum(2).argmin(1)
    wanted = np.stack([rows[nearest == i].mean(0) for i in range(8)])
    found = accelerate.kmeans(rows, 8, rounds=1, seed=5, device=CPU, metric="l2")
    assert np.allclose(found, wanted, atol=1e-5)


def test_kmeans_in_blocks_is_the_same(structured: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = as_float32(structured[:2000])
    whole = accelerate.kmeans(rows, 40, rounds=4, seed=1, device=CPU)
    monkeypatch.setattr(devices, "CPU_BLOCK", 4096)
    assert np.allclose(accelerate.kmeans(rows, 40, rounds=4, seed=1, device=CPU), whole, atol=1e-4)


def test_empty_clusters_split_big_ones() -> None:
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.standard_normal((3, 8)).astype(np.float32), [5, 5, 40], axis=0)
    rows[10:] += 0.1 * rng.standard_normal((40, 8)).astype(np.float32)
    found = accelerate.kmeans(rows, 12, rounds=20, seed=0, device=CPU, metric="l2")
    nearest = ((rows[:, None] - found) ** 2).sum(2).argmin(1)
    assert np.isfinite(found).all()
    assert len(np.unique(nearest)) >= 10  # started on equal rows, they would stay empty
    means = torch.ones(1, 3, 2)
    training._split_empty(means, np.array([[9, 0, 1]]), rng)
    assert np.allclose(means[0], [[1 - 2**-10, 1 + 2**-10], [1 + 2**-10, 1 - 2**-10], [1, 1]])


def test_kmeans_of_as_many_rows_as_centroids(structured: np.ndarray) -> None:
    rows = as_float32(structured[:9])
    found = accelerate.kmeans(rows, 9, device=CPU, metric="l2")
    assert np.array_equal(np.unique(found, axis=0), np.unique(rows, axis=0))
    with pytest.raises(ValueError, match="10 centroids of 9 rows"):
        accelerate.kmeans(rows, 10, device=CPU)


# the index


def build(vectors: np.ndarray, **changed: object) -> faiss.IndexIVFPQ:
    wanted: dict = {"nlist": 150, "pq_m": 12, "sample": SAMPLE, "device": CPU} | changed
    return accelerate.build_ivfpq(vectors, **wanted)


@pytest.mark.parametrize("fast_scan", [False, True])
def test_many_lists_are_linked(
    structured: np.ndarray, queries: np.ndarray, fast_scan: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index.recipe.COARSE_FROM", 150)
    index = build(structured, pq_m=24, nbits=4 if fast_scan else 8, fast_scan=fast_scan)
    assert isinstance(faiss.downcast_index(index.quantizer), faiss.IndexHNSW)
    found = ApproximateIndex(faiss.deserialize_index(faiss.serialize_index(index)), structured)
    hits = found.search(queries, 10, nprobe=32, rerank=300)
    assert recall(hits, exact.search(structured, queries, 10), 10) >= 0.95


def contents(index: faiss.IndexIVFPQ) -> tuple[np.ndarray, ...]:
    lists = index.invlists
    sizes = np.array([lists.list_size(i) for i in range(index.nlist)])
    filled = np.flatnonzero(sizes)
    ids = np.concatenate([faiss.rev_swig_ptr(lists.get_ids(int(i)), int(sizes[i])).copy() for i in filled])
    codes = [faiss.rev_swig_ptr(lists.get_codes(int(i)), int(sizes[i]) * index.code_size).copy() for i in filled]
    centroids = faiss.downcast_index(index.quantizer).reconstruct_n(0, index.nlist)
    return sizes, ids, np.concatenate(codes), centroids, faiss.vector_to_array(index.pq.centroids)


@pytest.mark.parametrize(("pq_m", "nbits"), [(12, 8), (24, 4), (13, 8), (13, 4)])
def test_lists_and_codes_are_those_of_faiss_for_the_same_centroids(
    structured: np.ndarray, pq_m: int, nbits: int, small_blocks: None
) -> None:
    index = build(structured, pq_m=pq_m, nbits=nbits, nlist=60)
    assert index.is_trained
    assert index.ntotal == 6000
    sizes, ids, codes, *_ = contents(index)
    wide = np.pad(as_float32(structured), ((0, 0), (0, index.d - 96)))
    index.reset()
    index.add(wide)
    their_sizes, their_ids, their_codes, *_ = contents(index)
    assert np.abs(sizes - their_sizes).sum() <= 4  # a row between two lists: sums are taken in another order
    ours, theirs = (np.empty((6000, index.d), np.float32) for _ in range(2))
    for numbers, packed, out in ((ids, codes, ours), (their_ids, their_codes, theirs)):
        # decoded, as entries of a codebook may be equal (all of them for the zeros behind)
        out[numbers] = index.pq.decode(packed.reshape(6000, -1))
    assert np.isclose(ours, theirs, atol=1e-6).mean() > 0.999


@pytest.fixture(scope="module")
def by_faiss(structured: np.ndarray) -> ApproximateIndex:
    return ApproximateIndex(approximate.build(structured, Recipe("ivfpq", 150, 12, 8, 6000)), structured)


@pytest.fixture(scope="module")
def by_torch(structured: np.ndarray) -> ApproximateIndex:
    return ApproximateIndex(build(structured), structured)


@pytest.mark.parametrize(("nprobe", "rerank"), [(4, 32), (8, 32), (16, 64), (16, 256), (64, 32), (150, 64)])
def test_recall_is_that_of_an_index_built_by_faiss(
    by_torch: ApproximateIndex, by_faiss: ApproximateIndex, structured: np.ndarray, nprobe: int, rerank: int
) -> None:
    queries = as_float32(structured[::5])  # 1200: few would differ by chance
    truth = exact.search(structured, queries, 10)
    ours, theirs = (
        recall(each.search(queries, 10, nprobe=nprobe, rerank=rerank), truth, 10) for each in (by_torch, by_faiss)
    )
    assert ours >= theirs - 0.005


@pytest.mark.parametrize("fast_scan", [False, True])
def test_recall_of_4_bits(structured: np.ndarray, queries: np.ndarray, fast_scan: bool) -> None:
    wide, truth = as_float32(structured), exact.search(structured, queries, 10)
    plain = faiss.IndexIVFPQ(faiss.IndexFlatIP(96), 96, 100, 48, 4, faiss.METRIC_INNER_PRODUCT)
    plain.cp.min_points_per_centroid, plain.cp.niter, plain.pq.cp.niter = 1, 10, 12
    plain.train(wide)
    plain.add(wide)
    ours, theirs = build(structured, nlist=100, pq_m=48, nbits=4, fast_scan=fast_scan), plain
    if fast_scan:
        theirs = faiss.IndexIVFPQFastScan(plain)
        assert isinstance(ours, faiss.IndexIVFPQFastScan)

    def found(index: faiss.Index) -> float:
        index.nprobe = 100
        rows = np.sort(index.search(queries, 64)[1], axis=1)
        keys = rank_keys(accelerate.rerank_scores(structured, queries, rows, CPU), rows)
        return recall(Hits.from_keys(keys, 10), truth, 10)

    assert found(ours) >= found(theirs) - 0.01  # 60 queries
    assert found(ours) > 0.9


def test_the_same_seed_builds_the_same_index(structured: np.ndarray) -> None:
    first, again, other = (contents(build(structured, seed=seed, sample=SAMPLE[::2])) for seed in (4, 4, 5))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[3], other[3])


def test_an_index_of_a_memory_map_survives_the_disk(structured: np.ndarray, tmp_path) -> None:
    structured.tofile(tmp_path / "vectors.f16")
    mapped = np.memmap(tmp_path / "vectors.f16", np.float16, "r", shape=structured.shape)
    index = build(mapped)
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    kept = faiss.read_index(str(tmp_path / "index.faiss"))
    assert all(np.array_equal(a, b) for a, b in zip(contents(index), contents(kept), strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(contents(index), contents(build(structured)), strict=True))


def test_what_cannot_be_built(structured: np.ndarray) -> None:
    for wrong in ({"nbits": 5}, {"fast_scan": True}, {"sample": SAMPLE[:200]}):
        with pytest.raises(ValueError, match=r"bits a code|rows to train"):
            build(structured, **wrong)


@pytest.mark.parametrize("at_once", [1, 999, 2000, 6000, 7000])
def test_a_stream_is_the_table_in_order(structured: np.ndarray, at_once: int) -> None:
    table = structured[: at_once * 20]
    assert np.array_equal(torch.cat(list(devices.stream(table, CPU, at_once))).numpy(), table)
    rows = np.flatnonzero(np.arange(len(table)) % 3 == 0)
    for source in (table, torch.from_numpy(table)):
        batches = list(devices.stream(source, CPU, at_once, rows))
        assert np.array_equal(torch.cat(batches).numpy(), table[rows])
        assert max(len(each) for each in batches) <= at_once
    assert list(devices.stream(table[:0], CPU)) == []


# projection


def test_projection_keeps_the_inner_products(structured: np.ndarray, queries: np.ndarray) -> None:
    rows = as_float32(structured)
    turn = accelerate.project_pca(rows, 96, CPU)
    assert np.allclose(turn @ turn.T, np.eye(96), atol=1e-5)
    assert np.allclose((queries @ turn.T) @ (rows @ turn.T).T, queries @ rows.T, atol=1e-4)
    short = accelerate.project_pca(rows, 24, CPU)
    assert np.array_equal(short, turn[:24])
    energy = ((rows @ turn.T) ** 2).sum(0)
    assert (np.diff(energy) <= 1e-3).all()
    # the oracle: singular vectors of the rows themselves, not centred
    _, _, right = np.linalg.svd(rows.astype(np.float64), full_matrices=False)
    assert np.allclose(np.abs((short * right[:24]).sum(1)), 1, atol=1e-3)
    assert (np.take_along_axis(turn, np.abs(turn).argmax(1)[:, None], 1) > 0).all()
    with pytest.raises(ValueError, match="97"):
        accelerate.project_pca(rows, 97, CPU)


# exact search


def agree(found: Hits, truth: Hits) -> None:
    """The same scores up to rounding, the same rows wherever neighbouring scores differ by more than that."""
    assert np.array_equal(found.counts, truth.counts)
    inside = truth.scores > -np.inf
    slack = TIE_TOLERANCE * max(1, np.abs(truth.scores[inside]).max(initial=0))
    assert np.allclose(found.scores[inside], truth.scores[inside], atol=slack)
    gaps = np.pad(-np.diff(np.where(inside, truth.scores, -1e9), axis=1), ((0, 0), (1, 1)), constant_values=1)
    clear = inside & (gaps[:, :-1] > 2 * slack) & (gaps[:, 1:] > 2 * slack)
    clear[:, -1] = False  # the next may tie with the last
    assert np.array_equal(found.rows[clear], truth.rows[clear])


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("k", [1, 10, 7000])
@pytest.mark.usefixtures("small_blocks")
def test_exact_search(structured: np.ndarray, queries: np.ndarray, k: int, resident: bool) -> None:
    table = accelerate.resident(structured, CPU) if resident else structured
    agree(accelerate.exact_search(table, queries, k, CPU), exact.search(structured, queries, k))
    rows = np.flatnonzero(np.random.default_rng(0).random(6000) < 0.2)
    found = accelerate.exact_search(table, queries, k, CPU, rows)
    agree(found, exact.search(structured, queries, k, rows))
    assert np.isin(found.rows[found.rows >= 0], rows).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 900), st.integers(1, 5), st.integers(1, 12), st.integers(1, 5), st.booleans(), st.integers(0, 9))
def test_ties_go_to_the_lower_row(n: int, q: int, k: int, values: int, filtered: bool, seed: int) -> None:
    """Few whole numbers: every sum is exact, so rows must be equal, not only scores."""
    rng = np.random.default_rng(seed)
    table = rng.integers(-values, values + 1, (n, 3)).astype(np.float16)
    queries = rng.integers(-1, 2, (q, 3)).astype(np.float32)
    rows = np.flatnonzero(rng.random(n) < 0.5) if filtered else None
    found, truth = accelerate.exact_search(table, queries, k, CPU, rows), exact.search(table, queries, k, rows)
    assert np.array_equal(found.rows, truth.rows)
    assert np.array_equal(found.scores, truth.scores)


def test_exact_search_of_nothing(structured: np.ndarray, queries: np.ndarray) -> None:
    none = accelerate.exact_search(structured, queries, 3, CPU, np.zeros(0, np.int64))
    assert none.counts.tolist() == [0] * len(queries)
    assert len(accelerate.exact_search(structured, queries[:0], 3, CPU)) == 0
    with pytest.raises(ValueError, match="allowed row 6000"):
        accelerate.exact_search(structured, queries, 3, CPU, np.array([6000]))


def test_keys_are_rank_keys() -> None:
    scores = np.array([[0.0, -0.0, 1e-30, -3.5, 2.5, 2.5]], np.float32)
    rows = np.array([3, 2, 2**32 - 1, 5, 0, 1])
    ours = brute_force._keys(torch.from_numpy(scores), torch.from_numpy(rows)).numpy()
    assert np.array_equal(ours.view(np.uint64) ^ np.uint64(1 << 63), rank_keys(scores, rows))


def test_a_query_in_halves_is_as_exact_as_float32(structured: np.ndarray, queries: np.ndarray) -> None:
    """What CUDA multiplies: float16 halves, here summed in float32 by the CPU."""
    asked = torch.from_numpy(np.concatenate([queries, 1e4 * queries, 1e-6 * queries, 0 * queries[:1]]))
    high, low, scale = brute_force.halves(asked)
    assert high.dtype == low.dtype == torch.float16
    back = scale * (high.double() + low.double() / brute_force.LOW)
    assert ((back - asked).abs() <= 2.0**-21 * asked.abs().amax(1, keepdim=True)).all()
    table = torch.from_numpy(structured[:500]).double()
    assert ((back - asked) @ table.T).abs().max() <= 1e-6 * (asked.double() @ table.T).abs().max()


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.usefixtures("small_blocks")
def test_rerank_scores(by_faiss: ApproximateIndex, structured: np.ndarray, queries: np.ndarray, resident: bool) -> None:
    rows = np.random.default_rng(0).integers(-1, 6000, (len(queries), 37))
    table = accelerate.resident(structured, CPU) if resident else structured
    found, wanted = accelerate.rerank_scores(table, queries, rows, CPU), by_faiss.scores(queries, rows)
    assert found.dtype == np.float32
    assert np.allclose(found[rows >= 0], wanted[rows >= 0], atol=1e-5)


@pytest.mark.filterwarnings("error")
def test_arrays_that_may_not_be_written(structured: np.ndarray, queries: np.ndarray) -> None:
    asked, rows = queries[:4].copy(), np.arange(0, 6000, 7)
    asked.flags.writeable = rows.flags.writeable = False
    torch.set_warn_always(True)  # else it warns once a process
    try:
        agree(accelerate.exact_search(structured, asked, 5, CPU), exact.search(structured, asked, 5))
        held = accelerate.resident(structured, CPU)
        agree(accelerate.exact_search(held, asked, 5, CPU, rows), exact.search(structured, asked, 5, rows))
        accelerate.rerank_scores(structured, asked, np.tile(rows[:9], (4, 1)), CPU)
    finally:
        torch.set_warn_always(False)


# FAISS's own GPU indexes


def fake_faiss(gpus: int = 1, fails: str = "") -> SimpleNamespace:
    def move(resources: object, number: int, index: object, options: SimpleNamespace) -> tuple:
        if fails:
            raise RuntimeError(f"Error in somewhere:\n{fails}")
        return "on gpu", number, index, options.useFloat16

    return SimpleNamespace(
        __version__="1.9", StandardGpuResources=object, get_num_gpus=lambda: gpus, index_cpu_to_gpu=move,
        GpuClonerOptions=lambda: SimpleNamespace(useFloat16=False),
    )  # fmt: skip


def ivfpq_index(nbits: int = 8, pq_m: int = 4) -> faiss.IndexIVFPQ:
    return faiss.IndexIVFPQ(faiss.IndexFlatIP(64), 64, 4, pq_m, nbits, faiss.METRIC_INNER_PRODUCT)


def test_an_index_goes_to_the_gpu(capfd: pytest.CaptureFixture[str]) -> None:
    for parts, narrow in ((4, False), (64, True)):
        index = ivfpq_index(pq_m=parts)
        assert accelerate.to_gpu(index, faiss=fake_faiss()) == (("on gpu", 0, index, narrow), "")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("index", "module", "filtered", "reason"),
    [
        (ivfpq_index(), SimpleNamespace(__version__="1.9"), False, "FAISS 1.9 is the CPU build"),
        (ivfpq_index(), fake_faiss(gpus=0), False, "FAISS sees no GPU"),
        (ivfpq_index(), fake_faiss(), True, "FAISS has no filters on the GPU"),
        (ivfpq_index(nbits=4), fake_faiss(), False, "FAISS has no codes of 4 bits on the GPU"),
        (faiss.IndexFlatIP(4), fake_faiss(), False, "only plain 8-bit IVF-PQ goes there, not IndexFlatIP"),
        (
            type("IndexIVFRaBitQ", (), {})(),
            fake_faiss(),
            False,
            "only plain 8-bit IVF-PQ goes there, not IndexIVFRaBitQ",
        ),
        (ivfpq_index(), fake_faiss(fails="out of memory"), False, "out of memory"),
    ],
)
def test_an_index_that_stays(
    index: object, module: SimpleNamespace, filtered: bool, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    found = accelerate.to_gpu(index, filtered=filtered, faiss=module)
    assert found.index is index
    assert found.reason == reason
    assert capfd.readouterr().err == f"on the CPU: {reason}\n"
