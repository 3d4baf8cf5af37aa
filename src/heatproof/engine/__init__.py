"""One `explain`, from arguments to result: inputs, batches, forward, attribution, certificate."""
