"""What steelyard owns: data, budget, evaluation, seeds and records. It never names a method."""
