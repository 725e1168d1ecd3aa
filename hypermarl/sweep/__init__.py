"""Many runs from one command: a grid of settings, trained on this machine or on a Ray cluster, in one results table."""
