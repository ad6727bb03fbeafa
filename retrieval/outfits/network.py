"""The bidirectional LSTM over the items of an outfit (Han et al. 2017, Learning Fashion Compatibility)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class OutfitNet(nn.Module):
    """Items (D dimensions of the image embedding) -> item space (p), read forwards and backwards.

    The softmax logit of a candidate is <o, P (x - mean)> with o the LSTM's output, linear in the candidate: so
    P^T o is a query vector for the image index, and the best next item of a million is one search.
    """

    mean: Tensor

    def __init__(self, dim: int, item: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.project = nn.Linear(dim, item, bias=False)
        self.ahead = nn.LSTM(item, hidden, batch_first=True)
        self.behind = nn.LSTM(item, hidden, batch_first=True)
        self.next = nn.Linear(hidden, item, bias=False)
        self.before = nn.Linear(hidden, item, bias=False)
        self.dropout = dropout
        self.register_buffer("mean", torch.zeros(dim))

    def items(self, features: Tensor) -> Tensor:
        """Features (..., D) -> item space (..., p)."""
        centred = features - self.mean
        return self.project(F.dropout(centred, self.dropout, self.training))

    def outputs(self, items: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Padded items (n, T, p), how many count (n,) -> what each position expects next and before, (n, T, p) twice.

        Position t of the first has read items 0 .. t, of the second items t .. length - 1; padding is never read.
        """
        turned = _turn(items, lengths)
        ahead = self.next(self.ahead(items)[0])
        return ahead, _turn(self.before(self.behind(turned)[0]), lengths)


def _turn(items: Tensor, lengths: Tensor) -> Tensor:
    """Each row's first ``length`` items in reverse, the padding where it was."""
    at = torch.arange(items.shape[1], device=items.device)[None, :]
    back = lengths[:, None] - 1 - at
    back = torch.where(back >= 0, back, at)
    return items.gather(1, back[:, :, None].expand_as(items))


def log_likelihood(net: OutfitNet, items: Tensor, lengths: Tensor, pool: Tensor) -> Tensor:
    """Mean log probability of each outfit's items, read both ways, (n,): E = (E_f + E_b) / 2 with
    E_f = 1/N sum_t log P(x_t+1 | x_1 .. x_t) and x_0 = x_N+1 = 0 (eqs. 1 to 5 of the paper).

    The softmax is over ``pool`` (m, p), the zero vector that ends an outfit, and the item itself: so an outfit's score
    does not depend on what else is scored.
    """
    ahead, behind = net.outputs(items, lengths)
    n, steps, _ = items.shape
    at = torch.arange(steps, device=items.device)[None, :]
    inside = at < lengths[:, None]
    total = items.new_zeros(n)
    for out, shift in ((ahead, 1), (behind, -1)):
        target = torch.roll(items, -shift, dims=1)
        last = at == (lengths[:, None] - 1 if shift == 1 else torch.zeros_like(lengths)[:, None])
        own = (out * target).sum(-1).masked_fill(last, 0.0)  # the logit of the zero vector is 0
        others = torch.logsumexp(out @ pool.T, dim=-1)  # (n, T)
        others = torch.logaddexp(others, torch.zeros_like(others))
        everything = torch.where(last, others, torch.logaddexp(others, own))
        total = total + ((own - everything) * inside).sum(1)
    return total / (2 * lengths)


def batch_loss(net: OutfitNet, features: Tensor, lengths: Tensor, rows: Tensor) -> Tensor:
    """Cross entropy with the batch's items as the softmax's classes (and the zero vector), padded (n, T, D).

    rows (n, T): which item each is, -1 for padding; other copies of the right item are no classes.
    """
    items = net.items(features)
    ahead, behind = net.outputs(items, lengths)
    inside = rows >= 0
    pool, ids = items[inside], rows[inside]  # (m, p), (m,)
    classes = torch.cat([pool, pool.new_zeros(1, pool.shape[1])])
    names = torch.cat([ids, ids.new_full((1,), -1)])
    place = torch.full_like(rows, len(pool))  # of each item among the classes; the zero vector is the last
    place[inside] = torch.arange(len(pool), device=rows.device)
    at = torch.arange(rows.shape[1], device=rows.device)[None, :]
    losses = []
    for out, shift in ((ahead, 1), (behind, -1)):
        last = at == (lengths[:, None] - 1 if shift == 1 else torch.zeros_like(lengths)[:, None])
        target = torch.roll(place, -shift, dims=1).masked_fill(last, len(pool))[inside]  # (m,)
        logits = out[inside] @ classes.T  # (m, m + 1)
        copies = (names[None, :] == names[target][:, None]) & (
            torch.arange(len(classes), device=rows.device)[None, :] != target[:, None]
        )
        losses.append(F.cross_entropy(logits.masked_fill(copies, float("-inf")), target))
    return (losses[0] + losses[1]) / 2
