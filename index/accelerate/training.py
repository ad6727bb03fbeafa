"""K-means, product quantisers and codes in torch, and the FAISS index made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from index.accelerate.devices import MOST_ROWS, block_bytes, on_device, stream
from index.exact import Float32
from index.hits import Rows
from index.lists import coarse
from index.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from index.accelerate.devices import Vectors

ROWS_PER_CODE = 256  # residuals a codebook entry is learned from: FAISS's own limit
SPLIT = 1 / 1024  # how far apart FAISS sets the halves of a split cluster


def kmeans(
    rows: Float32, k: int, *, rounds: int = 10, seed: int = 0, device: torch.device, metric: str = "inner"
) -> Float32:
    """Centroids float32 (k, d) of rows float32 (n, d), as FAISS's Clustering finds them; n of at least k.

    metric: "inner" gives each row to the centroid of the largest inner product and scales centroids to length 1
    (FAISS's ``spherical``, which an IVF over inner products sets); "l2" to the nearest, centroids are plain means. An
    empty cluster takes half of a big one. The same for the same seed and device. Memory: the rows, a block of scores.
    """
    if metric not in ("inner", "l2") or not 0 < k <= len(rows):
        raise ValueError(f"{k} centroids of {len(rows)} rows by metric {metric!r}: need k <= n, and inner or l2")
    given = on_device(np.asarray(rows, np.float32), device)
    return _lloyd(given[None], k, rounds, seed, metric == "inner")[0].cpu().numpy()


def _lloyd(rows: torch.Tensor, k: int, rounds: int, seed: int, inner: bool, half: bool = False) -> torch.Tensor:
    """b independent k-means: float32 (b, n, d) -> (b, k, d). half: compare in float16 on CUDA."""
    import torch

    rng = np.random.default_rng(seed)
    b, n, d = rows.shape
    centroids = rows[:, torch.from_numpy(rng.permutation(n)[:k]).to(rows.device)]  # (b, k, d)
    compared = rows.half() if half and rows.is_cuda else rows
    first = torch.arange(0, b * k, k, device=rows.device)[:, None]
    for _ in range(rounds if n > k else 0):
        if inner:
            centroids = torch.nn.functional.normalize(centroids, dim=2)
        labels = (_nearest(compared, centroids, inner) + first).reshape(-1)  # (b * n,) of b * k
        sums = torch.zeros(b * k, d, device=rows.device)
        if rows.is_cuda:  # index_add_ would add in any order there
            sums.index_put_((labels,), rows.reshape(-1, d), accumulate=True)
        else:
            sums.index_add_(0, labels, rows.reshape(-1, d))
        counts = torch.bincount(labels, minlength=b * k).view(b, k)
        centroids = sums.view(b, k, d) / counts.clamp(min=1)[:, :, None]
        _split_empty(centroids, counts.cpu().numpy(), rng)
    return torch.nn.functional.normalize(centroids, dim=2) if inner and n > k else centroids


def _nearest(rows: torch.Tensor, centroids: torch.Tensor, inner: bool) -> torch.Tensor:
    """The best centroid of (b, k, d) for each row of (b, n, d), int64 (b, n), a block of rows at a time.

    The nearest by L2 is the one of the largest <x, c> - |c|^2 / 2. Half rows (CUDA) are summed in float32.
    """
    import torch

    b, n, k = len(rows), rows.shape[1], centroids.shape[1]
    turned = centroids.to(rows.dtype).mT  # (b, d, k)
    shift = None if inner else -0.5 * centroids.square().sum(2)[:, None, :]  # (b, 1, k)
    best = torch.empty(b, n, dtype=torch.int64, device=rows.device)
    step = max(1, block_bytes(rows.device) // (4 * b * k))
    for start in range(0, n, step):
        block = rows[:, start : start + step]
        if rows.dtype == torch.float16:
            scores = torch.bmm(block, turned, out_dtype=torch.float32)  # (b, rows, k)
        else:
            scores = torch.bmm(block, turned)
        if shift is not None:
            scores += shift
        # on the CPU NumPy's is several times faster
        on_cpu = scores.device.type == "cpu"
        best[:, start : start + step] = torch.from_numpy(scores.numpy().argmax(2)) if on_cpu else scores.argmax(2)
    return best


def _split_empty(centroids: torch.Tensor, counts: npt.NDArray[np.int64], rng: np.random.Generator) -> None:
    """Each empty cluster of (b, k, d) takes half of one drawn by its size less one, in place, as in FAISS."""
    import torch

    apart = np.where(np.arange(centroids.shape[2]) % 2 == 0, 1 + SPLIT, 1 - SPLIT).astype(np.float32)
    for i in np.flatnonzero((counts == 0).any(axis=1)):
        means, sizes = centroids[i].cpu().numpy().copy(), counts[i]
        for empty in np.flatnonzero(sizes == 0):
            spare = np.maximum(sizes - 1, 0)
            full = rng.choice(len(sizes), p=spare / spare.sum())
            means[empty], means[full] = means[full] * apart, means[full] * (2 - apart)
            sizes[empty] = sizes[full] // 2
            sizes[full] -= sizes[empty]
        centroids[i] = torch.from_numpy(means).to(centroids.device)


def train(
    vectors: Vectors, *, nlist: int, pq_m: int, nbits: int, sample: Rows, seed: int, device: torch.device,
    rounds: tuple[int, int] = (10, 12),
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """(centroids (nlist, d), codebooks (pq_m, 2^nbits, d / pq_m)), float32 on the device, from the rows of the sample.

    d is D with zeros behind it up to a multiple of pq_m.
    """
    import torch

    dim = -(-vectors.shape[1] // pq_m) * pq_m
    rows = torch.cat([_padded(batch, dim) for batch in stream(vectors, device, rows=sample)])  # (n, d)
    centroids = _lloyd(rows[None], nlist, rounds[0], seed, inner=True, half=True)[0]
    entries = 2**nbits
    if len(rows) > ROWS_PER_CODE * entries:
        drawn = np.random.default_rng(seed).choice(len(rows), ROWS_PER_CODE * entries, replace=False)
        rows = rows[torch.from_numpy(np.sort(drawn)).to(device)]
    residuals = rows - centroids[_nearest_list(rows, centroids)]
    return centroids, _lloyd(_by_part(residuals, pq_m), entries, rounds[1], seed, inner=False)


def _padded(batch: torch.Tensor, dim: int) -> torch.Tensor:
    """(n, D) as float32 (n, dim), zeros behind."""
    import torch

    return torch.nn.functional.pad(batch.float(), (0, dim - batch.shape[1]))


def _nearest_list(rows: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """int64 (n,). The rows were float16 before they were float32: as float16 again, only centroids lose digits."""
    return _nearest((rows.half() if rows.is_cuda else rows)[None], centroids[None], True)[0]


def _by_part(residuals: torch.Tensor, pq_m: int) -> torch.Tensor:
    """(n, d) -> (pq_m, n, d / pq_m), contiguous."""
    return residuals.view(len(residuals), pq_m, -1).transpose(0, 1).contiguous()


def encode(
    vectors: Vectors, centroids: torch.Tensor, codebooks: torch.Tensor, bar: tqdm | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """(list of each row, int64 (N,); its code, uint8 (N, bytes)) in one pass over the table.

    Codes of 4 bits lie two in a byte, the first in the low half, as FAISS packs them.
    """
    import torch

    pq_m, entries, _ = codebooks.shape
    size = pq_m if entries == 256 else (pq_m + 1) // 2
    lists, codes = np.empty(len(vectors), np.int64), np.empty((len(vectors), size), np.uint8)
    start = 0
    for batch in stream(vectors, centroids.device):
        rows = _padded(batch, centroids.shape[1])
        nearest = _nearest_list(rows, centroids)
        found = _nearest(_by_part(rows - centroids[nearest], pq_m), codebooks, False).to(torch.uint8)
        found = found.T.contiguous()  # (n, pq_m)
        if entries == 16:
            found = torch.nn.functional.pad(found, (0, pq_m % 2))
            found = found[:, ::2] | (found[:, 1::2] << 4)
        part = slice(start, start + len(batch))
        lists[part], codes[part] = nearest.cpu().numpy(), found.cpu().numpy()
        start += len(batch)
        if bar is not None:
            bar.update(len(batch))
    return lists, codes


def assemble(
    centroids: Float32, codebooks: Float32, lists: npt.NDArray[np.int64], codes: npt.NDArray[np.uint8]
) -> faiss.IndexIVFPQ:
    """The FAISS index of what ``train`` and ``encode`` returned; row i gets id i, a list holds its rows rising."""
    (nlist, dim), (pq_m, entries, _) = centroids.shape, codebooks.shape
    nbits = entries.bit_length() - 1
    quantizer = coarse(Recipe("ivfpq", nlist), dim)
    quantizer.add(np.ascontiguousarray(centroids))
    index = faiss.IndexIVFPQ(quantizer, dim, nlist, pq_m, nbits, faiss.METRIC_INNER_PRODUCT)
    faiss.copy_array_to_vector(np.ascontiguousarray(codebooks).ravel(), index.pq.centroids)
    index.is_trained = True
    order = np.argsort(lists, kind="stable")
    ends = np.cumsum(np.bincount(lists, minlength=nlist))
    inverted: Any = index.invlists
    for i, ids in enumerate(np.split(order, ends[:-1])):
        if len(ids):
            own = np.ascontiguousarray(codes[ids])
            inverted.add_entries(i, len(ids), faiss.swig_ptr(ids), faiss.swig_ptr(own))
    index.ntotal = len(lists)
    return index


def build_ivfpq(
    vectors: npt.NDArray[np.float16], *, nlist: int, pq_m: int, nbits: int = 8, sample: Rows, seed: int = 0,
    device: torch.device, rounds: tuple[int, int] = (10, 12), progress: bool = False, fast_scan: bool = False,
) -> faiss.IndexIVFPQ | faiss.IndexIVFPQFastScan:  # fmt: skip
    """An IVF-PQ index over float16 (N, D), usually a memory map: trained, assigned and encoded on the device.

    sample: rows to train on, rising int64. nbits: 8 or 4 of each code; fast_scan (4 bits) returns FAISS's index of
    blocked codes. rounds: of k-means for the centroids and for the codebooks. Inner product, residual codes, D padded
    with zeros to a multiple of pq_m: as ``index.approximate.build``, whose recall it has. The same index for the same
    seed and device. Memory on the host: the codes twice while lists are filled.
    """
    if nbits not in (4, 8) or (fast_scan and nbits != 4):
        raise ValueError(f"{nbits} bits a code, fast scan {fast_scan}: need 8 or 4, and 4 for the fast scan")
    if len(sample) < max(nlist, 2**nbits):
        raise ValueError(f"{len(sample)} rows to train {nlist} lists and codebooks of {2**nbits}")
    with tqdm(total=len(vectors), desc="index", unit="row", disable=None if progress else True) as bar:
        bar.set_postfix_str(f"training on {len(sample)} rows, {device}")
        centroids, codebooks = train(
            vectors, nlist=nlist, pq_m=pq_m, nbits=nbits, sample=sample, seed=seed, device=device, rounds=rounds
        )
        bar.set_postfix_str(f"adding, {device}")
        lists, codes = encode(vectors, centroids, codebooks, bar)
    index = assemble(centroids.cpu().numpy(), codebooks.cpu().numpy(), lists, codes)
    if not fast_scan:
        return index
    packed: Any = faiss.IndexIVFPQFastScan(index)
    # it shares the quantizer; the lists of the other, which only FAISS's slow references for this one read, are freed
    packed.referenced_objects, packed.orig_invlists = index.referenced_objects, None  # type: ignore[attr-defined]
    return packed


def project_pca(sample: Float32, d_out: int, device: torch.device) -> Float32:
    """The projection float32 (d_out, D) that keeps most of the inner products of sample (n, D), largest axis first.

    Rows are the eigenvectors of the second moment about 0, not about the mean: <q, x> = <Pq, Px> for any orthogonal P,
    so nothing may be subtracted. Signs: the largest component of an axis is positive. The moment is summed on the
    device; its decomposition, of D x D numbers in float64, is the CPU's, so that it is the same everywhere.
    """
    import torch

    n, dim = sample.shape
    if not 0 < d_out <= dim:
        raise ValueError(f"a projection of {dim} dimensions to {d_out}")
    moment = torch.zeros(dim, dim, device=device)
    for start in range(0, n, MOST_ROWS):
        block = on_device(np.asarray(sample[start : start + MOST_ROWS], np.float32), device)
        moment += block.T @ block / n
    axes = torch.linalg.eigh(moment.cpu().double()).eigenvectors.T.flip(0)[:d_out].numpy()  # eigh gives rising values
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)  # (d_out, 1)
    return np.ascontiguousarray(axes * np.sign(largest), np.float32)
