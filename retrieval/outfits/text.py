"""Words -> the blocks of the image embedding: a text is a query vector of the very index that photos are in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from index.errors import InputError
from retrieval.outfits.config import TextConfig
from retrieval.outfits.language import words_of


def vocabulary(texts: Iterable[str], min_count: int) -> list[str]:
    """Words that at least ``min_count`` texts hold, the commonest first."""
    counts = Counter(word for text in texts for word in set(words_of(text)))
    return [word for word, count in counts.most_common() if count >= min_count]


class TextNet(nn.Module):
    """A bag of words: the sum of its word vectors (V, dim), mapped linearly to the D dimensions of the embedding.

    A block's direction says what is asked of it, its length how much: "navy" is long in color and short elsewhere.
    """

    def __init__(self, words: int, dim: int, out: int) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(words, dim, mode="sum")
        self.out = nn.Linear(dim, out, bias=False)
        nn.init.normal_(self.words.weight, std=0.1)

    def forward(self, codes: Tensor, starts: Tensor) -> Tensor:
        """Word codes of all texts end to end, and where each begins -> (n, D)."""
        return self.out(self.words(codes, starts))


class Words:
    """A trained text encoder. ``aliases``: what people type -> words that were learned ("gray" -> "grey")."""

    def __init__(self, net: TextNet, known: Sequence[str], aliases: Mapping[str, str] | None = None) -> None:
        self.net, self.known = net, list(known)
        self.code = {word: i for i, word in enumerate(known)}
        self.aliases = {tuple(words_of(said)): words_of(meant) for said, meant in (aliases or {}).items()}

    def codes(self, text: str) -> tuple[list[int], list[str]]:
        """Codes of the words that were learned, and the words that were not. An alias stands in for what it means."""
        words, found, unknown = words_of(text), [], []
        at = 0
        while at < len(words):
            for length in range(min(3, len(words) - at), 0, -1):
                meant = self.aliases.get(tuple(words[at : at + length]), [])
                if meant and all(word in self.code for word in meant):
                    found += [self.code[word] for word in meant]
                    break
            else:
                length = 1
                if words[at] in self.code:
                    found.append(self.code[words[at]])
                else:
                    unknown.append(words[at])
            at += length
        return found, unknown

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Texts -> (n, D) float32 of length 1 over the whole vector. InputError for a text of no learned word."""
        codes = []
        for text in texts:
            found, unknown = self.codes(text)
            if not (found or unknown):
                raise InputError("the text is empty; name a garment, its color")
            if not found:
                near = [each for word in unknown for each in get_close_matches(word, self.known, n=2, cutoff=0.6)]
                offer = f"; nearest: {', '.join(near)}" if near else ""
                raise InputError(f"text {text!r}: none of its words was ever learned{offer}; name a garment, its color")
            codes.append(found)
        return F.normalize(self.net(*bags(codes)), dim=1).numpy()


def bags(codes: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Lists of codes as EmbeddingBag takes them: end to end, and the start of each."""
    starts = np.cumsum([0, *(len(each) for each in codes[:-1])])
    return torch.tensor([code for each in codes for code in each], dtype=torch.long), torch.from_numpy(starts)


def fit(
    texts: Sequence[str], said: Sequence[str], units: npt.NDArray[np.float16], config: TextConfig, seed: int = 0,
    progress: bool = False,
) -> tuple[TextNet, list[str]]:  # fmt: skip
    """Learn the encoder from titles and their photos' embeddings (n, D), every block of length 1.

    said: for each photo what its labels say ("Navy Blue Tshirts Men"), which every third text is made of: a title
    need not name the color. Hinge loss both ways over the batch, the mean over violating pairs:
    max(0, margin - cos(t, x) + cos(t', x)) (Kiros et al. 2014; Han et al. 2017, eq. 7). Photos of the same text do not
    count against each other. Every word may be left out by chance, so that short texts are learned, too.
    """
    known = vocabulary([f"{text} {more}" for text, more in zip(texts, said, strict=True)], config.min_count)
    words = Words(TextNet(0, 1, 1), known)
    titles, labels = ([np.array(words.codes(text)[0], np.int64) for text in each] for each in (texts, said))
    usable = np.flatnonzero([len(each) > 0 for each in titles])
    if len(usable) < config.batch:
        raise InputError(f"{len(usable)} texts to learn from, fewer than a batch of {config.batch}")
    torch.manual_seed(seed)
    net = TextNet(len(known), config.dim, units.shape[1])
    optimizer = torch.optim.Adam(net.parameters(), lr=config.learning_rate)
    same = np.unique([" ".join(words_of(text)) for text in texts], return_inverse=True)[1]
    for step in tqdm(range(config.steps), "text", unit="step", disable=None if progress else True):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * 0.5 * (1 + float(np.cos(np.pi * step / config.steps)))
        rng = np.random.default_rng([seed, step])
        rows = rng.choice(usable, config.batch, replace=False)
        codes = [_some(labels[row] if rng.random() < 0.33 and len(labels[row]) else titles[row], rng) for row in rows]
        loss = hinge(net(*bags(codes)), torch.from_numpy(units[rows].astype(np.float32)), same[rows], config.margin)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return net.eval(), known


def _some(codes: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    kept = codes[rng.random(len(codes)) > 0.2]
    return kept if len(kept) else codes


def hinge(texts: Tensor, photos: Tensor, same: npt.NDArray[np.int64], margin: float) -> Tensor:
    """Both directions of the margin loss on cosines, (n, D) each; rows of equal ``same`` are no negatives."""
    scores = F.normalize(texts, dim=1) @ F.normalize(photos, dim=1).T  # (n, n)
    alike = torch.from_numpy(same[:, None] == same[None, :])
    right = scores.diagonal()
    wrong = [(margin - own + scores).clamp(min=0).masked_fill(alike, 0) for own in (right[:, None], right[None, :])]
    return sum((each.sum() / (each > 0).sum().clamp(min=1) for each in wrong), texts.new_zeros(()))


def recall_at(
    texts: npt.NDArray[np.float32], right: npt.NDArray[np.int64], units: npt.NDArray[np.float16],
    ks: Sequence[int] = (1, 10, 50),
) -> dict[str, float]:  # fmt: skip
    """Text -> photo recall@k: the share of texts (n, D) whose own photo (row ``right`` of ``units``) is among the k
    best by cosine; of equal ones the earlier row comes first."""
    photos = units.astype(np.float32)
    ranks = []
    for start in range(0, len(texts), 256):
        scores = texts[start : start + 256] @ photos.T
        rows = right[start : start + 256]
        own = scores[np.arange(len(rows)), rows][:, None]
        before = (scores == own) & (np.arange(len(photos))[None, :] < rows[:, None])
        ranks.append((scores > own).sum(axis=1) + before.sum(axis=1))
    rank = np.concatenate(ranks)
    return {f"recall@{k}": round(float((rank < k).mean()), 4) for k in ks}
