"""How well masked spans and leads are predicted, beside trivial predictions."""
