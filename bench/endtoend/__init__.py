"""The commands that train: throughput, scaling, sweep, fine-tuning, and the decoding that feeds them."""
