"""Agents that are language models: one frozen model, an adapter for every agent, all of them in one pass."""
