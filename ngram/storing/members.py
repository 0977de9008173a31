"""Compiled loops of the codec over contexts: the candidates of a context are the children of its suffix context, grouped by count."""

import numpy as np

from ngram.compiled import njit

CLASSES = 64  # of a candidate: its count as a child of the suffix context, three classes an octave


@njit
def sort_range(values, start, stop):
    """Sorts values[start:stop] in place, by insertion where it is short, as nearly always."""
    if stop - start > 32:
        values[start:stop] = np.sort(values[start:stop])
        return
    for place in range(start + 1, stop):
        value, to = values[place], place
        while to > start and values[to - 1] > value:
            values[to] = values[to - 1]
            to -= 1
        values[to] = value


@njit
def group_children(first, classes):
    """Children of each context, the highest class first, then by token.

    first (C + 1,) offsets of the contexts' children; classes (M,) uint8 < CLASSES of the children.
    Returns members (M,) uint32 in that order, rank (M,) uint32 the inverse, group_first (C + 1,) int64 offsets into group_stop (G,) int64
    (end of each group in members) and group_class (G,) uint8."""
    members, rank = np.empty((2, len(classes)), np.uint32)
    tally = np.zeros(CLASSES, np.int64)
    group_first = np.zeros_like(first)
    group_stop = np.empty(len(classes), np.int64)  # at most so many: pages that are never written take no memory
    group_class = np.empty(len(classes), np.uint8)
    group = 0
    for context in range(len(first) - 1):
        start, stop = first[context], first[context + 1]
        if stop > start:
            for child in range(start, stop):
                tally[classes[child]] += 1
            place = start
            for kind in range(CLASSES - 1, -1, -1):
                size = tally[kind]
                if size:
                    tally[kind] = place
                    place += size
                    group_stop[group], group_class[group] = place, kind
                    group += 1
            for child in range(start, stop):
                place = tally[classes[child]]
                tally[classes[child]] += 1
                members[place] = child
                rank[child] = place
            for child in range(start, stop):
                tally[classes[child]] = 0
        group_first[context + 1] = group
    return members, rank, group_first, group_stop[:group], group_class[:group]


@njit
def locate_members(parents, suffixes, rows, first, group_first, group_stop, group_class, rank, child_first, child_suffix, used, bucket, slot):
    """Bucket row·CLASSES + class and slot in it of each child, context by context in the order of the walk.

    parents, rows (P,): the contexts that have children and their rows; suffixes (contexts,) their suffix contexts.
    child_first (contexts + 1,), child_suffix (M,): the children and their suffixes among the candidates; a reader knows of none.
    used (buckets,) int64 zeros: on return the candidates of each bucket.  Writes bucket (M,) uint16, slot (M,) int64."""
    out = 0
    places = np.empty(len(bucket), np.int64)
    for index in range(len(parents)):
        context = parents[index]
        children = child_first[context + 1] - child_first[context]
        for child in range(children):
            places[child] = rank[child_suffix[child_first[context] + child]]
        sort_range(places, 0, children)
        suffix = suffixes[context]
        start, next_place = first[suffix], 0
        for group in range(group_first[suffix], group_first[suffix + 1]):
            stop = group_stop[group]
            key = rows[index] * CLASSES + group_class[group]
            while next_place < children and places[next_place] < stop:
                bucket[out], slot[out] = key, used[key] + places[next_place] - start
                out += 1
                next_place += 1
            used[key] += stop - start
            start = stop


@njit
def expand_members(parents, suffixes, rows, first, group_first, group_stop, group_class, members, event_first, events, inverted, used, out_first, out):
    """The walk of the reader: turns each bucket's events into children.

    event_first (buckets + 1,) offsets into events (E,) int64, ascending slots that hold a child or, where inverted (buckets,)
    bool, hold none.  used (buckets,) int64 zeros.  Writes out_first (P + 1,) and out (M,) uint32, the candidates that are
    children, ascending in each context.  Returns the number written, or -1 when it would not be M."""
    written = 0
    cursor = event_first[:-1].copy()
    for index in range(len(parents)):
        suffix = suffixes[parents[index]]
        start, begin = first[suffix], written
        for group in range(group_first[suffix], group_first[suffix + 1]):
            stop = group_stop[group]
            key = rows[index] * CLASSES + group_class[group]
            base = used[key] - start
            place = event = start
            while event < stop:
                more = cursor[key] < event_first[key + 1] and events[cursor[key]] - base < stop
                event = events[cursor[key]] - base if more else stop
                cursor[key] += more
                size = event - place if inverted[key] else int(more)
                if written + size > len(out):
                    return -1
                for i in range(size):
                    out[written + i] = members[place + i if inverted[key] else event]
                written += size
                place = event + 1
            used[key] += stop - start
            start = stop
        sort_range(out, begin, written)
        out_first[index + 1] = written
    return written
