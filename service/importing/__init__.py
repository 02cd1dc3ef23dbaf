"""Foreign weights into our networks' terms: `recognise.convert` tells a file's kind and reads it. Writes nothing."""
