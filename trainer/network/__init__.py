"""AlexNet in two columns: shapes, layers, the exchange between columns, and what follows a convolution."""
