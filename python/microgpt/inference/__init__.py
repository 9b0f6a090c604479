"""WEIGHTS -> TEXT: from the logits of a trained model to streamed text."""
