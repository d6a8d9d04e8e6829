"""Pure mathematics on matrices: Gram matrices, singular values, inverse roots."""
