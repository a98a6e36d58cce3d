"""The recipe by which the embedded pipelines are trained.

`scenes` draws the data with captions, `components` builds the untrained parts and `denoisers` puts
them together, `train_autoencoder` and `train_transformer` train them in the loop of `training`, and
`card` says what came of it.
"""
