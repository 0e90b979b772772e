"""The definition of the stitcher, one view and one pair at a time: slow, and what the fast one must equal."""

import numpy as np

from wsi_detect.geometry import box_intersection
from wsi_detect.stitching.exchange import ROUNDS


def area(box):
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def common(a, b):
    return [max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])]


def places(views, score, label):
    """Place of each view in the total order."""

    def key(k):
        x0, y0, x1, y1 = views.sides[:, k]
        size = -area(views.sides[:, k]) if views.cut[k] else 0.0
        return (not views.owned[k], views.cut[k], size, -score[k], y0, x0, y1, x1, label[k], views.patch[k], k)

    place = np.empty(len(score), dtype=np.int64)
    place[sorted(range(len(score)), key=key)] = np.arange(len(score))
    return place


class Plain:
    """Views as lists of plain numbers, which Python reckons with three times as fast as with those of numpy."""

    def __init__(self, views):
        self.boxes = views.sides.T.tolist()
        self.patch, self.cut, self.windows = (list(a.tolist()) for a in (views.patch, views.cut, views.windows))


def likeness(plain, one, other, iou, ios):
    """Likeness of two views, and whether they can be one cell; None if they share nothing."""
    a, b = plain.boxes[one], plain.boxes[other]
    shared = area(common(a, b))
    if plain.patch[one] == plain.patch[other] or not area(a) or not area(b) or not shared:
        return None
    smaller, cut = min(area(a), area(b)), plain.cut[one] or plain.cut[other]
    if cut:
        window = common(plain.windows[plain.patch[one]], plain.windows[plain.patch[other]])
        a, b = common(a, window), common(b, window)
    value = shared / (area(a) + area(b) - shared)
    return value, value >= iou or (cut and shared >= ios * smaller)


def partners(views, place, iou, ios, kinds=None):
    """Pairs (first, second) of views, one to one between each two patches: the most alike first, then the best sum."""
    candidates, plain = [], Plain(views)
    place = place.tolist()
    shared = np.triu(box_intersection(views.sides.T, views.sides.T), k=1)
    for one, other in np.argwhere(shared > 0).tolist():
        found = likeness(plain, one, other, iou, ios)
        if found is not None and found[1] and (kinds is None or kinds[one] == kinds[other]):
            one, other = sorted((one, other), key=lambda k: place[k])
            cut = plain.cut[one] or plain.cut[other]
            candidates.append((-np.round(found[0], 6), cut, place[one], place[other], one, other))
    candidates.sort()
    pairs = [tuple(entry[-2:]) for entry in candidates]
    # Each view against the other's patch, that of the lower patch first.
    ends = []
    for pair in pairs:
        low, high = sorted(pair, key=lambda k: plain.patch[k])
        ends.append(((low, plain.patch[high]), (high, plain.patch[low])))
    mate = {}
    for k, (low, high) in enumerate(ends):
        if low not in mate and high not in mate:
            mate[low] = mate[high] = k
    exchange(ends, [round(-entry[0] * 1e6) for entry in candidates], mate)
    return [pairs[k] for k in sorted(set(mate.values()))]


def exchange(ends, worth, mate):
    """Exchange pairs, in rounds, for a larger sum: `mate` is the pair each end has, and is changed."""
    at = {pair: k for k, pair in enumerate(ends)}
    of = {}
    for k, pair in enumerate(ends):
        for end in pair:
            of.setdefault(end, []).append(k)
    for _ in range(ROUNDS):
        moves = [*swaps(ends, worth, mate, at), *splits(ends, worth, mate, of)]
        if not moves:
            return
        first = {}
        for move in sorted(moves):
            for k in move[-2:]:
                for end in ends[k]:
                    first.setdefault(end, move)
        for move in moves:
            if all(first[end] == move for k in move[-2:] for end in ends[k]):
                for k in move[-2:]:
                    mate[ends[k][0]] = mate[ends[k][1]] = k


def swaps(ends, worth, mate, at):
    for k, (a, d) in enumerate(ends):
        a_b, c_d = mate.get(a), mate.get(d)
        if a_b is None or c_d is None or a_b == c_d:
            continue
        other = at.get((ends[c_d][0], ends[a_b][1]))
        if other is not None and k < other:
            gain = worth[k] + worth[other] - worth[a_b] - worth[c_d]
            if gain > 0:
                yield -gain, a_b, k, other


def splits(ends, worth, mate, of):
    for k in sorted(set(mate.values())):
        a, b = ends[k]
        with_a = [j for j in of[a] if ends[j][1] not in mate]
        with_b = [j for j in of[b] if ends[j][0] not in mate]
        if with_a and with_b:
            into = [min(found, key=lambda j: (-worth[j], j)) for found in (with_a, with_b)]
            gain = sum(worth[j] for j in into) - worth[k]
            if gain > 0:
                yield -gain, k, *into


def founders(views, place, pairs):
    """Founding view of each view, -1 where there is none; `pairs` are those of `partners`."""
    founder = [k if views.owned[k] else -1 for k in range(len(place))]
    taken = set()
    for one, other in sorted(pairs, key=lambda pair: [place[k] for k in pair]):
        if views.owned[one] and one not in taken and other not in taken:
            taken.add(other)
            founder[other] = one
    return founder
