"""List a split of a source with a log, and make a lister of given entries."""

from dataclasses import dataclass

from alexstream.sharding.sources.types import ListingLog, SourceSplit


@dataclass
class Listed:
    """A split and its log, which is complete when the entries have been read."""

    split: SourceSplit
    log: ListingLog

    @property
    def entries(self):
        return self.split.entries

    @property
    def classes(self):
        return self.split.classes

    @property
    def excluded(self):
        return self.log.excluded

    @property
    def notices(self):
        return self.log.notices


def read_split(lister):
    log = ListingLog()
    return Listed(lister(log), log)


def lister_of(entries, excluded=(), **facts):
    """A lister of these entries and excluded files."""

    def list_split(log):
        log.extend(excluded, ())
        return SourceSplit(entries=entries, **facts)

    return list_split
