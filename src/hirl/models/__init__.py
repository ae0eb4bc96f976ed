"""Networks and their weights: backbones, detectors, tokenizers, published weights."""
