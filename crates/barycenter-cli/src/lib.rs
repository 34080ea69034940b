//! Client commands of the barycenter binary.
