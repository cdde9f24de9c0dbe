"""The tiny vision-language model of the generated world."""
