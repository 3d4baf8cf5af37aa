"""Put something else where parts of an image are hidden: used by methods, metrics and the audit.

An imputer decides what a model is shown in the place of what is taken away. No choice is neutral:
every fill is itself an image that the model may react to.

| imputer | what is shown instead |
|---|---|
| zero | zeros of the preprocessed image: the colour that the preprocessing subtracts |
| mean | the image's own mean colour |
| black | what the preprocessing makes of black |
| blur | the image under a Gaussian filter about as wide as a patch |
| noise | uniform colours from black to white, by a seed, the same for all images |
| inpainting | the solution of ROAD's linear equations and its noise of 0.01 (`inpainting`) |
| other | another image: the next one by mean brightness that is not the same |
| tokens | nothing: no token may attend to the hidden ones (`heatproof.reading.token_dropping`) |
"""
