"""What a run shows of itself while it trains: a table, TensorBoard events, a bar in the terminal."""
