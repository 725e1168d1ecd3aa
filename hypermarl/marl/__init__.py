"""Control agents: policies, rollouts, objectives and the training loop."""
