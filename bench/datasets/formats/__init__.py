"""What data sets share: files, prepared arrays, orders of classes, mixtures."""
