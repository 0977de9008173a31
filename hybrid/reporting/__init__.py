"""Reports: what a run's log, its artifact and its scores say, for people."""
