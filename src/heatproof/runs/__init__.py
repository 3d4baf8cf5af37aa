"""Maps of many images: sources, prompts, and engines that explain them into a store."""
