"""A task with known truth: images, objects, named prompts, and whether the model is right."""
