"""Download shards of an object store into a bounded cache on this machine, ahead of their use.

``reading.cached_shards`` is the interface to the stream. Here are ``prefetcher`` (the download threads), ``lookahead``
(the shards of the coming steps), ``delivery`` (one shard: ``fetch`` it into the ``cache``) and ``lease`` (the shards
that each process of the machine uses).
"""
