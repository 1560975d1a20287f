"""Shards of an object store, brought into a bounded cache of this machine ahead of use.

``staging`` is what the stream sees; below it ``stager`` (threads), ``horizon`` (what comes next), ``delivery`` (one
shard: ``fetch`` it, put it into the ``cache``) and ``lease`` (what other processes of the machine want kept).
"""
