"""The life of a rank: launch, rendezvous, process groups, the lock of the run folder, and waits that are told."""
