"""Networks and their weights: backbones, detectors, tokenizers, import and export."""
