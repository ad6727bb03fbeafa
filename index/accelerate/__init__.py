"""Optional: training, encoding and exact search in torch, on a GPU where there is one. The index is FAISS's own.

The only part of this package that needs torch; it imports it when a function runs. What is trained here is what FAISS
trains: k-means on the inner product with centroids of length 1, product quantisers of the residuals.
"""

from index.accelerate.brute_force import exact_search, rerank_scores
from index.accelerate.devices import device, resident, stream
from index.accelerate.faiss_gpu import OnGpu, to_gpu
from index.accelerate.recipes import Chosen, build, chosen
from index.accelerate.training import assemble, build_ivfpq, encode, kmeans, project_pca, train

__all__ = [
    "Chosen",
    "OnGpu",
    "assemble",
    "build",
    "build_ivfpq",
    "chosen",
    "device",
    "encode",
    "exact_search",
    "kmeans",
    "project_pca",
    "rerank_scores",
    "resident",
    "stream",
    "to_gpu",
    "train",
]
