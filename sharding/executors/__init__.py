"""Run the jobs of a conversion: in worker processes of this machine (``local``) or as tasks of Ray (``ray``)."""
