// SPDX-License-Identifier: BSD-3-Clause
// Private members of torch's classes that torch offers no other way to.
#pragma once

namespace torch_ext {

// Unnamed, as each of its uses is: an explicit instantiation has to be in the
// namespace of its template.
namespace {

/// Reaches a private member by explicit instantiation, which no access check
/// applies to:
///
///   struct Data : MemberOf<SavedVariable> {};
///   auto& private_member(Data, SavedVariable& saved);
///   template struct PrivateMember<Data, &SavedVariable::data_>;
///
/// then private_member(Data(), saved) is saved.data_.
template <typename Tag, auto member>
struct PrivateMember {
  friend auto& private_member(Tag, typename Tag::Class& object) {
    return object.*member;
  }
};

template <typename Owner>
struct MemberOf {
  using Class = Owner;
};

} // namespace

} // namespace torch_ext
